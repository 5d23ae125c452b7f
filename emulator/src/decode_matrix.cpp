// ldmatrix, stmatrix, movmatrix, mma and wmma: which form, which targets have it, and what is refused.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "decode.h"
#include "parts.h"

namespace kw {
namespace {

bool is_one_of(std::string_view word, std::initializer_list<std::string_view> words) { return std::find(words.begin(), words.end(), word) != words.end(); }

}  // namespace

void KernelDecoder::matrix(Parts parts) {
    const std::string_view base = parts[0];
    if (!take(parts, "sync")) unknown();
    take(parts, "aligned");
    if (base == "mma") {
        multiply(parts);
    } else if (base == "movmatrix") {
        if (!take(parts, "m8n8") || !take(parts, "b16")) unknown();
        emit(join(parts), flat());
    } else {
        if (take(parts, "m16n16") || take(parts, "m8n16") || take(parts, "m16n8")) fail(text() + " is not supported: 8-bit matrices come with sm_100");
        if (!take(parts, "m8n8") || !take(parts, "b16") || !(take(parts, "shared") || take(parts, "shared::cta"))) unknown();
        if (base == "stmatrix") need_target(90);
        emit(join(parts), flat());
    }
    insn_.converged = true;
}

// mma.shape.row.col{.satfinite}.d.a.b.c
void KernelDecoder::multiply(Parts parts) {
    if (!take(parts, "row")) unknown();
    if (!take(parts, "col")) {
        if (take(parts, "row")) fail(text() + " is not supported: of the layouts there is row.col");
        unknown();
    }
    const bool finite = take(parts, "satfinite");
    if (parts.size() != 6) {
        if (take(parts, "xor") || take(parts, "and")) fail(text() + " is not supported: there is no mma of single bits");
        unknown();
    }
    const std::string_view shape = parts[1], a = parts[3], b = parts[4];
    if (is_one_of(a, {"s4", "u4", "b1"})) fail(text() + " is not supported: there is no mma of 4-bit or single-bit integers");
    if (shape == "m8n8k4" && a == "f16") fail(text() + " is not supported: this shape is of sm_70, later GPUs emulate it; use m16n8k8 or m16n8k16");
    const bool fp8 = is_one_of(a, {"e4m3", "e5m2"}), integer = is_one_of(a, {"s8", "u8"});
    if (fp8 && !is_one_of(b, {"e4m3", "e5m2"})) unknown();
    if (finite && !integer) unknown();
    if (fp8) need_target(89);
    emit(join(parts), flat());
    insn_.mode = finite;
}

// wmma.load.x and wmma.store.d .layout.shape{.space}.type, wmma.mma.layout.layout.shape.d.c: those of f16
void KernelDecoder::wmma(Parts parts) {
    if (!take(parts, "sync") || !take(parts, "aligned") || parts.size() < 2) unknown();
    if (parts[1] == "mma") {  // fragments do not tell how their matrices lay in memory
        for (int n = 0; n < 2; ++n)
            if (!take(parts, "row") && !take(parts, "col")) unknown();
        emit(join(parts), flat());
        insn_.converged = true;
        return;
    }
    const bool by_column = take(parts, "col");
    if (!by_column && !take(parts, "row")) unknown();
    const std::string_view space = take_space(parts);
    if (parts.size() != 5 || (space != "global" && space != "shared" && space != "generic")) unknown();
    std::vector<Operand> operands = flat();
    if (statement_->operands.size() == 2) {  // lines of the matrix follow one another
        Operand stride;
        stride.kind = OperandKind::Integer;
        const int m = parts[3] == "m8n32k16" ? 8 : parts[3] == "m32n8k16" ? 32 : 16, n = 256 / m;
        stride.value = parts[2] == (by_column ? "b" : "a") ? 16 : by_column ? m : n;
        operands.push_back(stride);
    }
    operands.emplace_back();  // a sink, where the handler puts the addresses of the lanes
    emit(join(parts), operands);
    insn_.mode = static_cast<uint8_t>(space == "global" ? Space::Global : space == "shared" ? Space::Shared : Space::Generic);
    if (by_column) insn_.mode |= kColumnMajor;
    insn_.converged = true;
}

}  // namespace kw
