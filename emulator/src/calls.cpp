// What calls need besides jumps: copying arguments, and the functions CUDA provides (PTX ISA, "call"; link.cpp).
// SPDX-License-Identifier: Apache-2.0
#include "lanes.h"
#include "print.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

void copy(Warp& w, const Insn& i, Mask m) {  // o[2] bytes of local memory from o[1] to o[0]
    const size_t size = w.launch->kernel->local_bytes;
    for (Mask left = m; left; left &= left - 1) {
        char* own = w.local.data() + static_cast<size_t>(__builtin_ctz(left)) * size;
        std::memmove(own + i.o[0], own + i.o[1], i.o[2]);
    }
}

void vprintf_lanes(Warp& w, const Insn& i, Mask m) {  // R, format, arguments
    const uint64_t *format = source<uint64_t>(w, i.o[1]), *arguments = source<uint64_t>(w, i.o[2]);
    map_active(destination<int32_t>(w, i.o[0]), m, [&](int l) { return print_lane(w, i, l, format[l], arguments[l]); });
}

void assertfail(Warp& w, const Insn& i, Mask m) {  // message, file, line, function, size of a character
    const uint32_t* o = operands<5>(w, i);
    const int l = __builtin_ctz(m);
    assertion_failed(w, i, l, source<uint64_t>(w, o[0])[l], source<uint64_t>(w, o[1])[l], source<uint32_t>(w, o[2])[l], source<uint64_t>(w, o[3])[l]);
}

void nowhere(Warp& w, const Insn& i, Mask m) {
    const int l = __builtin_ctz(m);
    call_of_nothing(w, i, l, source<uint64_t>(w, i.o[0])[l]);
}

const Form kForms[] = {
    {"call copy", "", copy}, {"call vprintf", "Rll", vprintf_lanes}, {"call assertfail", "llrll", assertfail}, {"call nowhere", "l", nowhere},
};

}  // namespace

FormTable call_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
