// The JSON report of a launch, and the settings text.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <map>

#include "launch.h"

namespace kw {
namespace {

std::string quote(const std::string& text) {
    static const char* kDigits = "0123456789abcdef";
    std::string out = "\"";
    for (const char raw : text) {
        const unsigned char c = static_cast<unsigned char>(raw);
        if (c == '"' || c == '\\') out += '\\', out += raw;
        else if (c < 32 || c > 126) out += "\\u00", out += kDigits[c >> 4], out += kDigits[c & 15];
        else out += raw;
    }
    return out + "\"";
}

bool parse_number(const std::string& text, uint64_t& value) {
    if (text.empty() || text.size() > 19) return false;
    value = 0;
    for (const char c : text) {
        if (c < '0' || c > '9') return false;
        value = value * 10 + static_cast<uint64_t>(c - '0');
    }
    return true;
}

bool parse_checks(const std::string& text, Checks& checks) {
    if (text == "all") return checks = Checks{}, true;
    checks = Checks{false, false, false, false, false};
    if (text == "none") return true;
    size_t at = 0;
    for (;;) {
        const size_t plus = text.find('+', at);
        const std::string word = text.substr(at, plus == std::string::npos ? plus : plus - at);
        if (word == "memory") checks.memory = true;
        else if (word == "init") checks.init = true;
        else if (word == "async") checks.async = true;
        else if (word == "barrier") checks.barrier = true;
        else if (word == "race") checks.race = true;
        else return false;
        if (plus == std::string::npos) return true;
        at = plus + 1;
    }
}

}  // namespace

std::string report_json(const Launch& launch) {
    std::string out = "{\"kernel\": " + quote(launch.kernel->name) + ", \"findings\": [";
    bool first = true;
    for (const Finding& f : launch.findings) {
        out += std::string(first ? "" : ", ") + "{\"kind\": " + quote(f.kind) + ", \"text\": " + quote(f.text) + ", \"ptx_line\": " + std::to_string(f.ptx_line) +
               ", \"cuda_file\": " + quote(f.cuda_file) + ", \"cuda_line\": " + std::to_string(f.cuda_line) + ", \"block\": [" + std::to_string(f.block[0]) + ", " +
               std::to_string(f.block[1]) + ", " + std::to_string(f.block[2]) + "], \"warp\": " + std::to_string(f.warp) + ", \"lane\": " + std::to_string(f.lane) + "}";
        first = false;
    }
    out += "], \"counters\": {";
    first = true;
    const auto counter = [&](const char* name, uint64_t value) {
        out += std::string(first ? "" : ", ") + "\"" + name + "\": " + std::to_string(value);
        first = false;
    };
    if (launch.counting) {
#define KW_FIELD(name) counter(#name, launch.counters.name);
        KW_COUNTERS(KW_FIELD)
#undef KW_FIELD
    } else {
        counter("warp_instructions", launch.counters.warp_instructions);
        counter("blocks", launch.counters.blocks);
    }
    out += "}, \"fidelity\": {";
    const Kernel& kernel = *launch.kernel;
    std::map<std::string, Fidelity> executed;
    for (size_t pc = 0; pc < launch.executed.size(); ++pc) {
        if (!launch.executed[pc]) continue;
        for (size_t n = pc; n < pc + std::max<size_t>(kernel.run[pc], 1); ++n) {
            const FormUse& form = kernel.forms[kernel.where[n].form];
            executed[form.name] = form.fidelity;
        }
    }
    first = true;
    for (const auto& [name, fidelity] : executed) {
        out += std::string(first ? "" : ", ") + quote(name) + ": " +
               (fidelity == Fidelity::Exact ? "\"exact\"" : fidelity == Fidelity::Approximate ? "\"approximate\"" : "\"not modelled\"");
        first = false;
    }
    return out + "}, \"tracks_undefined\": " + (kernel.tracking ? "true" : "false") + ", \"printed\": " + quote(launch.printed) + "}";
}

bool configure(Config& config, const std::string& text, std::string& message) {
    Config next = config;
    const std::map<std::string, int*> device = {
        {"sm", &next.device.sm}, {"sms", &next.device.sms}, {"smem_optin", &next.device.smem_optin}, {"smem_per_sm", &next.device.smem_per_sm},
        {"regs_per_sm", &next.device.regs_per_sm}, {"max_threads_per_sm", &next.device.max_threads_per_sm}, {"max_blocks_per_sm", &next.device.max_blocks_per_sm}};
    for (size_t at = 0; at < text.size();) {
        size_t comma = text.find(',', at);
        if (comma == std::string::npos) comma = text.size();
        const std::string item = text.substr(at, comma - at);
        at = comma + 1;
        const size_t equals = item.find('=');
        const std::string key = item.substr(0, equals), value = equals == std::string::npos ? "" : item.substr(equals + 1);
        uint64_t number = 0;
        const bool is_number = parse_number(value, number);
        const auto bad = [&](const char* allowed) {
            message = "setting '" + item + "': " + key + " must be " + allowed;
            return false;
        };
        if (key == "name") {
            if (value.empty()) return bad("a name");
            next.device.name = value;
        } else if (device.count(key)) {
            if (!is_number || number == 0 || number > 1u << 30) return bad("a positive whole number");
            *device.at(key) = static_cast<int>(number);
        } else if (key == "checks") {
            if (!parse_checks(value, next.checks)) return bad("all, none, or some of memory, init, async, barrier, race joined by +");
        } else if (key == "counters") {
            if (value == "auto") next.counters_follow_checks = true;
            else if (value == "0" || value == "1") next.counters_follow_checks = false, next.counters = value == "1";
            else return bad("0, 1 or auto (on when any check is)");
        } else if (key == "on_finding") {
            if (value != "raise" && value != "collect") return bad("raise or collect");
            next.collect = value == "collect";
        } else if (key == "print") {
            if (value != "0" && value != "1") return bad("0 or 1");
            next.print = value == "1";
        } else if (key == "seed") {
            if (!is_number) return bad("a whole number, 0 for the fixed order");
            next.seed = number;
        } else if (key == "threads") {
            if (value != "auto" && (!is_number || number == 0)) return bad("a count of host threads, or auto (one for each processor)");
            next.threads = number;
        } else if (key == "registers") {
            if (value != "auto" && (!is_number || number == 0 || number > 256)) return bad("a count of registers of a thread, or auto (what the device has for the block)");
            next.registers = number;
        } else if (key == "resident_blocks") {
            if (value != "auto" && (!is_number || number == 0)) return bad("a count of thread blocks, or auto (what the device holds)");
            next.resident_blocks = number;
        } else if (key == "max_instructions") {
            if (!is_number) return bad("a count of warp instructions, 0 for no limit");
            next.max_instructions = number;
        } else {
            message = "unknown setting '" + key + "'; known are name, sm, sms, smem_optin, smem_per_sm, regs_per_sm, max_threads_per_sm, max_blocks_per_sm, "
                      "checks, counters, on_finding, print, seed, max_instructions, registers, resident_blocks, threads";
            return false;
        }
    }
    config = next;
    return true;
}

}  // namespace kw
