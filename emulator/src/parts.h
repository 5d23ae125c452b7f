// The parts of an opcode between its dots: "ld", "global", "v4", "u32".
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace kw {

using Parts = std::vector<std::string_view>;

inline bool has(const Parts& parts, std::string_view word) { return std::find(parts.begin() + 1, parts.end(), word) != parts.end(); }

// Whether a modifier is there, and then takes it out.
inline bool take(Parts& parts, std::string_view word) {
    const auto found = std::find(parts.begin() + 1, parts.end(), word);
    if (found == parts.end()) return false;
    parts.erase(found);
    return true;
}

// The state space that an access names, or "generic".
inline std::string_view take_space(Parts& parts) {
    static const std::pair<std::string_view, std::string_view> kSpaces[] = {
        {"global", "global"}, {"shared", "shared"}, {"shared::cta", "shared"}, {"local", "local"}, {"param", "param"},
        {"param::entry", "param"}, {"param::func", "param"}, {"const", "const"}};
    for (const auto& [written, space] : kSpaces)
        if (take(parts, written)) return space;
    return "generic";
}

inline std::string join(const Parts& parts) {
    std::string out;
    for (const std::string_view part : parts) {
        if (!out.empty()) out += '.';
        out += part;
    }
    return out;
}

}  // namespace kw
