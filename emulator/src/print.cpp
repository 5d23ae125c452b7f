// What kernels say: printf and failed assertions.
//
// Device code hands printf a format and a buffer with the arguments, each as C promotes it (int, 64-bit integer, double,
// pointer) and aligned to its size.
// SPDX-License-Identifier: Apache-2.0
#include "print.h"

#include <cstdio>

#include "ast.h"
#include "checks.h"

namespace kw {
namespace {

constexpr size_t kMaxPrinted = size_t{1} << 20;  // as the buffer of a GPU
constexpr size_t kMaxText = 65536;               // of a format or a string
constexpr int kMaxField = 4096;                  // width and precision

// Copies what a lane sees at a generic address; false where it lies in no memory of the launch.
bool fetch(Warp& warp, int lane, uint64_t address, void* out, uint64_t bytes) {
    Launch& launch = *warp.launch;
    const uint64_t window = address & kWindowMask, at = address & ~kWindowMask;
    const auto from = [&](const char* base, uint64_t size) {
        if (at > size || bytes > size - at) return false;
        std::memcpy(out, base + at, bytes);
        return true;
    };
    if (window == kSharedWindow) return from(warp.block->shared, warp.block->shared_bytes);
    if (window == kParamWindow) return from(launch.params.data(), launch.params.size());
    if (window == kLocalWindow) {
        const uint64_t size = launch.kernel->local_bytes;
        return from(warp.local.data() + static_cast<size_t>(lane) * size, size);
    }
    for (const Declared& range : launch.declared) {
        if (address < range.begin || address >= range.end || range.end - address < bytes || !(range.access & kRead)) continue;
        std::memcpy(out, reinterpret_cast<const void*>(address), bytes);
        return true;
    }
    return false;
}

// At most `most` characters of a string that ends with a zero byte.
bool fetch_text(Warp& warp, int lane, uint64_t address, std::string& out, size_t most = kMaxText) {
    for (char c = 0; out.size() < most; out += c) {
        if (!fetch(warp, lane, address + out.size(), &c, 1)) return false;
        if (c == 0) return true;
    }
    return most < kMaxText;
}

// One conversion of a format: %[flags][width][.precision][length]letter
struct Conversion {
    std::string flags;
    bool has_width = false, width_is_argument = false, has_precision = false, precision_is_argument = false;
    int width = 0, precision = 0;
    std::string length;
    char letter = 0;
};

bool digits(const std::string& text, size_t& at, int& value) {
    const size_t first = at;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
        value = value * 10 + (text[at] - '0');
        if (value > kMaxField) return false;
    }
    return at >= first;
}

// From behind the '%'; false if it is malformed.
bool parse(const std::string& text, size_t& at, Conversion& out) {
    while (at < text.size() && std::string("-+ #0").find(text[at]) != std::string::npos) {
        if (out.flags.find(text[at]) == std::string::npos) out.flags += text[at];
        ++at;
    }
    if (at < text.size() && text[at] == '*') {
        out.has_width = out.width_is_argument = true;
        ++at;
    } else {
        const size_t first = at;
        if (!digits(text, at, out.width)) return false;
        out.has_width = at > first;
    }
    if (at < text.size() && text[at] == '.') {
        out.has_precision = true;
        ++at;
        if (at < text.size() && text[at] == '*') out.precision_is_argument = true, ++at;
        else if (!digits(text, at, out.precision)) return false;
    }
    while (at < text.size() && std::string("hljztL").find(text[at]) != std::string::npos) out.length += text[at++];
    static const char* const kLengths[] = {"", "h", "hh", "l", "ll", "j", "z", "t", "L"};
    bool known = false;
    for (const char* length : kLengths) known |= out.length == length;
    if (!known || at >= text.size()) return false;
    out.letter = text[at++];
    return std::string("diuoxXcspfFeEgGaA").find(out.letter) != std::string::npos;
}

class Arguments {
   public:
    Arguments(Warp& warp, int lane, uint64_t address) : warp_(warp), lane_(lane), address_(address) {}
    template <class T>
    bool next(T& value) {
        at_ = align_up(at_, sizeof(T));
        if (!fetch(warp_, lane_, address_ + at_, &value, sizeof(T))) return false;
        at_ += sizeof(T);
        ++count;
        return true;
    }
    int count = 0;

   private:
    Warp& warp_;
    int lane_;
    uint64_t address_, at_ = 0;
};

// The format is one conversion, read by Conversion and made for the type of `value`.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
template <class T>
std::string formatted(const std::string& format, T value) {
    char small[512];
    const int size = std::snprintf(small, sizeof small, format.c_str(), value);
    if (size < static_cast<int>(sizeof small)) return std::string(small, size > 0 ? static_cast<size_t>(size) : 0);
    std::string out(static_cast<size_t>(size) + 1, ' ');
    std::snprintf(&out[0], out.size(), format.c_str(), value);
    out.pop_back();
    return out;
}
#pragma GCC diagnostic pop

std::string padded(const std::string& text, const Conversion& c) {
    const size_t width = c.has_width ? static_cast<size_t>(c.width) : 0;
    if (text.size() >= width) return text;
    const std::string blanks(width - text.size(), ' ');
    return c.flags.find('-') == std::string::npos ? blanks + text : text + blanks;
}

// Appends one converted argument; an error text otherwise.
const char* convert(Warp& warp, int lane, Conversion c, Arguments& arguments, std::string& out) {
    static const char* const kUnreadable = "the arguments of printf are not where its caller says";
    int32_t given = 0;
    if (c.width_is_argument) {
        if (!arguments.next(given)) return kUnreadable;
        if (given < -kMaxField || given > kMaxField) return "the width of a conversion is too large";
        c.width = given < 0 ? -given : given;
        if (given < 0) c.flags += '-';
    }
    if (c.precision_is_argument) {
        if (!arguments.next(given)) return kUnreadable;
        if (given > kMaxField) return "the precision of a conversion is too large";
        c.has_precision = given >= 0;
        c.precision = given < 0 ? 0 : given;
    }
    std::string spec = "%" + c.flags;
    if (c.has_width) spec += std::to_string(c.width);
    if (c.has_precision) spec += "." + std::to_string(c.precision);
    const bool wide = c.length == "l" || c.length == "ll" || c.length == "j" || c.length == "z" || c.length == "t";
    int64_t integer = 0;
    double real = 0;
    switch (c.letter) {
        case 'd': case 'i': case 'u': case 'o': case 'x': case 'X': {
            if (c.length == "L") return "printf has no such conversion";
            int32_t narrow = 0;
            if (wide ? !arguments.next(integer) : !arguments.next(narrow)) return kUnreadable;
            if (wide) out += formatted(spec + "ll" + c.letter, static_cast<long long>(integer));
            else out += formatted(spec + c.length + c.letter, static_cast<int>(narrow));
            return nullptr;
        }
        case 'c':
            if (!arguments.next(given)) return kUnreadable;
            out += padded(std::string(1, static_cast<char>(given)), c);
            return nullptr;
        case 's': {
            uint64_t address = 0;
            if (!arguments.next(address)) return kUnreadable;
            std::string text;
            if (address == 0) text = "(null)";
            else if (!fetch_text(warp, lane, address, text, c.has_precision ? static_cast<size_t>(c.precision) : kMaxText))
                return "the string of a %s lies in no memory of this launch, or does not end";
            out += padded(text, c);
            return nullptr;
        }
        case 'p':
            if (!arguments.next(integer)) return kUnreadable;
            out += padded(integer ? formatted("0x%llx", static_cast<unsigned long long>(integer)) : "(nil)", c);
            return nullptr;
        default:
            if (!arguments.next(real)) return kUnreadable;
            out += formatted(spec + c.letter, real);
            return nullptr;
    }
}

std::string described(Warp& warp, int lane, uint64_t address) {
    std::string out;
    return fetch_text(warp, lane, address, out) ? out : "(unreadable)";
}

}  // namespace

int32_t print_lane(Warp& warp, const Insn& insn, int lane, uint64_t format, uint64_t address) {
    Launch& launch = *warp.launch;
    if (format == 0) return -1;
    const auto bad = [&](const std::string& why) {
        report(warp, insn, lane, "printf", why);
        return -2;
    };
    std::string text, out;
    if (!fetch_text(warp, lane, format, text)) return bad("the format of printf lies in no memory of this launch, or does not end");
    Arguments arguments(warp, lane, address);
    for (size_t at = 0; at < text.size();) {
        if (text[at] != '%') {
            out += text[at++];
            continue;
        }
        const size_t start = at++;
        if (at < text.size() && text[at] == '%') {
            out += text[at++];
            continue;
        }
        Conversion conversion;
        if (!parse(text, at, conversion)) return bad("printf has no conversion like the one at character " + std::to_string(start) + " of \"" + text.substr(0, 80) + "\"");
        if (const char* why = convert(warp, lane, conversion, arguments, out)) return bad(why);
        if (out.size() > kMaxPrinted) break;
    }
    if (launch.printed.size() + out.size() > kMaxPrinted) launch.print_is_full = true;
    if (!launch.print_is_full) launch.printed += out;
    return arguments.count;
}

void assertion_failed(Warp& warp, const Insn& insn, int lane, uint64_t message, uint64_t file, uint32_t line, uint64_t function) {
    warp.launch->config.collect = false;  // the kernel does not go on
    report(warp, insn, lane, "assertion",
           described(warp, lane, file) + ":" + std::to_string(line) + ": " + described(warp, lane, function) + ": assertion `" + described(warp, lane, message) + "` failed");
}

void call_of_nothing(Warp& warp, const Insn& insn, int lane, uint64_t address) {
    warp.launch->config.collect = false;
    const bool is_function = (address & kWindowMask) == (kFunctionWindow & kWindowMask);
    report(warp, insn, lane, "call_target",
           is_function ? "calls a function with other parameters than the call's, or one that the call does not list"
                       : "calls through a pointer that holds " + std::to_string(address) + ", the address of no function");
}

}  // namespace kw
