// The state of undefined values, what instructions do to it, and the findings.
//
// A mask for each place in the register file says which lanes hold undefined bits; which bits is kept for those lanes
// alone. So where all is defined, a tracked instruction costs a few masks.
// SPDX-License-Identifier: Apache-2.0
#include "undefined.h"

#include <algorithm>

#include "checks.h"
#include "convert_modes.h"

namespace kw {

constexpr uint32_t kFromLocal = 0x80000000u;  // an origin: the load from local memory at this instruction; else a register

struct UndefinedState {
    std::vector<Mask> lanes;        // by place
    Bytes bits;                     // laid out as the register file
    std::vector<uint32_t> origins;  // place * 32 + lane: what the undefined bits come from
    std::vector<Mask> predicates;
    std::vector<uint32_t> predicate_origins;
    std::vector<uint8_t> local;     // laid out as Warp::local, a set bit for an undefined one
    Warp scratch;                   // for Rule::Move
    alignas(64) char scratch_file[8 * 256];
    uint32_t scratch_ext[8];
};

namespace {

const uint64_t kAllOnes[kLanes] = {
    ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull,
    ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull};

constexpr Mask kBit[kLanes] = {1u << 0, 1u << 1, 1u << 2, 1u << 3, 1u << 4, 1u << 5, 1u << 6, 1u << 7, 1u << 8, 1u << 9, 1u << 10,
                               1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21,
                               1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};

int lowest(Mask m) { return __builtin_ctz(m); }

// What an instruction makes of its destinations, before it is executed.
class Step {
   public:
    Step(Warp& warp, const Insn& insn, const TrackedInsn& tracked, Mask m)
        : warp_(warp), insn_(insn), tracked_(tracked), u_(*warp.undefined), m_(m), words_(tracked.in_ext ? warp.ext + insn.ext : insn.o) {}

    // Reports the uses that matter among the operands.
    void judge() {
        for (const TrackedOperand& operand : tracked_.operands) {
            if (operand.role == Role::Source || operand.role == Role::Destination) continue;
            Mask bad = undefined(operand, operand.bits) & operand.lanes;
            if (bad && operand.role == Role::Accumulator) bad &= predicate_value(insn_.o[0]);
            if (bad && operand.role == Role::Stored && tracked_.rule == Rule::StoreLocal) bad &= ~local_lanes();
            if (bad) report_use(operand, bad);
        }
    }

    void propagate() {
        Mask doubtful = 0;
        for (const TrackedOperand& operand : tracked_.operands)
            if (operand.role == Role::Source) doubtful |= undefined(operand, ~0ull);
        switch (tracked_.rule) {
            case Rule::LoadLocal: return load();
            case Rule::StoreLocal: return store();
            case Rule::CopyLocal: return copy();
            case Rule::Shuffle: return shuffle();
            case Rule::Defined: doubtful = 0; break;
            default: break;
        }
        if (!doubtful) return define();
        switch (tracked_.rule) {
            case Rule::Whole: return whole(undefined_sources(tracked_.bits));
            case Rule::Move: return move();
            case Rule::Select: return select();
            case Rule::Compare: return compare();
            case Rule::Predicates: return predicates();
            default: return each();
        }
    }

    // The guard is undefined in these lanes: so is what the instruction may or may not have written.
    void doubt(Mask lanes) {
        m_ = lanes;
        for (Mask left = lanes; left; left &= left - 1) origin_[lowest(left)] = u_.predicate_origins[tracked_.guard * kLanes + static_cast<uint32_t>(lowest(left))];
        keep_origins_ = true;
        whole(lanes);
    }

    // A use that matters of `operand` in the lanes `bad`: reports the first, and takes the values for defined.
    void report_use(const TrackedOperand& operand, Mask bad) {
        const int l = lowest(bad);
        const uint32_t at = operand.place * kLanes + static_cast<uint32_t>(l);
        const uint64_t bits = operand.predicate ? ~0ull : bits_of(operand, l) & operand.bits;
        const uint32_t origin = operand.predicate ? u_.predicate_origins[at] : u_.origins[at];
        (operand.predicate ? u_.predicates : u_.lanes)[operand.place] &= ~bad;
        const Launch& launch = *warp_.launch;
        const uint32_t pc = static_cast<uint32_t>(&insn_ - launch.kernel->code.data());
        const std::string name = launch.kernel->tracking->name(operand.reg);
        std::string text = name + " " + purpose(operand.role) + ", but " + (bits == (operand.bits ? operand.bits : ~0ull) || operand.predicate ? "its value is" : "some of its bits are") +
                           " undefined in this thread: " + (origin & kFromLocal ? load_text(origin & ~kFromLocal) : origin_text(name, origin));
        report_at(warp_, pc, l, "undefined_value", text);
    }

   private:
    // Lanes among m_ in which the operand has an undefined bit among `bits`.
    Mask undefined(const TrackedOperand& operand, uint64_t bits) const {
        if (operand.predicate) return u_.predicates[operand.place] & m_;
        Mask out = u_.lanes[operand.place] & m_;
        if (!out || bits == ~0ull || (!operand.wide && bits == 0xffffffffull)) return out;
        for (Mask left = out; left; left &= left - 1)
            if (!(bits_of(operand, lowest(left)) & bits)) out &= ~(left & (0u - left));
        return out;
    }
    Mask undefined_sources(uint64_t bits) const {
        Mask out = 0;
        for (const TrackedOperand& operand : tracked_.operands)
            if (operand.role == Role::Source) out |= undefined(operand, bits);
        return out;
    }
    uint64_t bits_of(const TrackedOperand& operand, int lane) const {
        if (!(u_.lanes[operand.place] >> lane & 1u)) return 0;
        const char* at = u_.bits.data() + size_t{operand.place} * 128;
        return operand.wide ? reinterpret_cast<const uint64_t*>(at)[lane] : reinterpret_cast<const uint32_t*>(at)[lane];
    }
    const TrackedOperand* operand_at(uint32_t word, Role role) const {
        for (const TrackedOperand& operand : tracked_.operands)
            if (operand.word == word && operand.role == role) return &operand;
        return nullptr;
    }
    uint64_t source_bits(uint32_t word, int lane) const {
        const TrackedOperand* operand = operand_at(word, Role::Source);
        return operand && !operand->predicate ? bits_of(*operand, lane) : 0;
    }
    Mask source_predicate(uint32_t word) const {
        const TrackedOperand* operand = operand_at(word, Role::Source);
        return operand ? u_.predicates[operand->place] & m_ : 0;
    }
    uint64_t value(uint32_t word, int lane) const {
        const char* at = warp_.base[word & kOperandConstant] + (word & ~kOperandFlags);
        return word & kOperandWide ? reinterpret_cast<const uint64_t*>(at)[lane] : reinterpret_cast<const uint32_t*>(at)[lane];
    }
    Mask predicate_value(uint32_t word) const { return warp_.predicates[word >> 1] ^ (0u - (word & 1u)); }

    void define() {
        for (const TrackedOperand& operand : tracked_.operands)
            if (operand.role == Role::Destination) (operand.predicate ? u_.predicates : u_.lanes)[operand.place] &= ~m_;
    }
    // The undefined bits of the destination in `lanes`. It may share a source's place: sources and origins are read before.
    void put(const TrackedOperand& to, Mask lanes, const uint64_t* bits) {
        Mask some = 0;
        for (int l = 0; l < kLanes; ++l) some |= static_cast<Mask>((to.wide ? bits[l] : bits[l] & 0xffffffffu) != 0) << l;
        mark(to, lanes, some & lanes);
        if (to.predicate || !(some & lanes)) return;
        char* at = u_.bits.data() + size_t{to.place} * 128;
        if (to.wide) blend(reinterpret_cast<uint64_t*>(at), lanes, bits);
        else blend(reinterpret_cast<uint32_t*>(at), lanes, bits);
    }
    // The destination is undefined in the lanes `some` of `lanes`.
    void mark(const TrackedOperand& to, Mask lanes, Mask some) {
        Mask& state = (to.predicate ? u_.predicates : u_.lanes)[to.place];
        state = (state & ~lanes) | some;
        if (some) blend((to.predicate ? u_.predicate_origins : u_.origins).data() + size_t{to.place} * kLanes, some, origin_);
    }
    template <class To, class From>
    static void blend(To* to, Mask lanes, const From* from) {
        if (lanes == kFullMask) {
            for (int l = 0; l < kLanes; ++l) to[l] = static_cast<To>(from[l]);
        } else {
            for (int l = 0; l < kLanes; ++l) to[l] = lanes & kBit[l] ? static_cast<To>(from[l]) : to[l];
        }
    }
    // The undefined bits of a source in the lanes of m_.
    void gather(uint32_t word, uint64_t* out) const {
        const TrackedOperand* operand = operand_at(word, Role::Source);
        const Mask lanes = operand && !operand->predicate ? u_.lanes[operand->place] & m_ : 0;
        std::fill(out, out + kLanes, uint64_t{0});
        if (!lanes) return;
        const char* at = u_.bits.data() + size_t{operand->place} * 128;
        if (operand->wide) blend(out, lanes, reinterpret_cast<const uint64_t*>(at));
        else blend(out, lanes, reinterpret_cast<const uint32_t*>(at));
    }
    // What each lane's undefined bits come from.
    void find_origins() {
        if (keep_origins_) return;
        keep_origins_ = true;
        std::fill(origin_, origin_ + kLanes, kUnknown);
        for (const TrackedOperand& operand : tracked_.operands) {
            const Mask lanes = operand.role == Role::Source ? (operand.predicate ? u_.predicates : u_.lanes)[operand.place] & m_ : 0;
            if (lanes) blend(origin_, lanes, (operand.predicate ? u_.predicate_origins : u_.origins).data() + size_t{operand.place} * kLanes);
        }
    }

    void whole(Mask lanes) {
        find_origins();
        for (const TrackedOperand& operand : tracked_.operands) {
            if (operand.role != Role::Destination) continue;
            mark(operand, m_, lanes);
            if (operand.predicate) continue;
            char* at = u_.bits.data() + size_t{operand.place} * 128;
            if (operand.wide) blend(reinterpret_cast<uint64_t*>(at), lanes, kAllOnes);
            else blend(reinterpret_cast<uint32_t*>(at), lanes, kAllOnes);
        }
    }

    // One destination, one lane at a time.
    void each() {
        find_origins();
        uint64_t a[kLanes], b[kLanes], c[kLanes], out[kLanes];
        gather(1, a), gather(2, b), gather(3, c);
        if (tracked_.rule == Rule::Carry) {
            for (int l = 0; l < kLanes; ++l) out[l] = (a[l] | b[l] | c[l]) | (0 - (a[l] | b[l] | c[l]));
        } else if (tracked_.rule == Rule::Logic) {
            for (int l = 0; l < kLanes; ++l) out[l] = m_ >> l & 1u && (a[l] | b[l] | c[l]) ? logic(l, a[l], b[l], c[l]) : 0;
        } else if (tracked_.rule == Rule::Halves) {
            for (int l = 0; l < kLanes; ++l) {
                const uint64_t any = a[l] | b[l] | c[l];
                out[l] = (any & 0xffffu ? 0xffffu : 0u) | (any & 0xffff0000u ? 0xffff0000u : 0u);
            }
        } else {
            for (int l = 0; l < kLanes; ++l) out[l] = (a[l] ? 0xffff0000u : 0u) | (b[l] ? 0xffffu : 0u);
        }
        for (const TrackedOperand& operand : tracked_.operands)
            if (operand.role == Role::Destination) put(operand, m_, out);
    }
    // Undefined where the sources' undefined bits could make the result either 0 or 1.
    uint64_t logic(int lane, uint64_t a, uint64_t b, uint64_t c) const {
        const uint64_t va = value(words_[1], lane), vb = logic_sources() > 1 ? value(words_[2], lane) : 0, vc = logic_sources() > 2 ? value(words_[3], lane) : 0;
        uint64_t can[2] = {0, 0};
        for (int k = 0; k < 8; ++k) {
            const uint64_t x = (k & 4 ? va : ~va) | a, y = (k & 2 ? vb : ~vb) | b, z = (k & 1 ? vc : ~vc) | c;
            can[tracked_.table >> k & 1u] |= x & y & z;
        }
        return can[0] & can[1];
    }
    int logic_sources() const { return tracked_.table == 0x0fu ? 1 : tracked_.table == 0xc0u || tracked_.table == 0xfcu || tracked_.table == 0x3cu ? 2 : 3; }

    // Runs the instruction's own handler on undefined bits in place of values.
    void move() {
        Mask controlled = 0;
        for (const TrackedOperand& operand : tracked_.operands)
            if (operand.role == Role::Source && (operand.predicate || !(tracked_.moved >> operand.word & 1u))) controlled |= undefined(operand, ~0ull);
        uint64_t out[kLanes];
        find_origins();
        run_on_bits();
        for (const TrackedOperand& operand : tracked_.operands) {
            if (operand.role != Role::Destination) continue;
            scratch(operand, out);
            if (controlled) blend(out, controlled, kAllOnes);
            put(operand, m_, out);
        }
    }
    void select() {
        const Mask undecided = source_predicate(3);
        uint64_t a[kLanes], b[kLanes], out[kLanes];
        find_origins();
        gather(1, a), gather(2, b);
        run_on_bits();
        for (int l = 0; undecided && l < kLanes; ++l) a[l] |= b[l] | (value(words_[1], l) ^ value(words_[2], l));
        for (const TrackedOperand& operand : tracked_.operands) {
            if (operand.role != Role::Destination) continue;
            scratch(operand, out);
            if (undecided) blend(out, undecided, a);  // what is equal and defined on both sides is defined
            put(operand, m_, out);
        }
    }
    // What the handler made of the bits.
    void scratch(const TrackedOperand& operand, uint64_t* out) const {
        const char* at = u_.scratch_file + 256 * operand.word;
        if (operand.wide) blend(out, kFullMask, reinterpret_cast<const uint64_t*>(at));
        else blend(out, kFullMask, reinterpret_cast<const uint32_t*>(at));
    }
    void run_on_bits() {
        const uint32_t count = tracked_.in_ext ? 5 : 4;
        Insn insn = insn_;
        insn.guard_flip = 0;
        for (uint32_t word = 0; word < count; ++word) {
            if (tracked_.rule == Rule::Select && word == 3) continue;  // a predicate
            const bool wide = (words_[word] & kOperandWide) != 0;
            char* to = u_.scratch_file + 256 * word;
            if (tracked_.moved >> word & 1u) {
                uint64_t bits[kLanes];
                gather(word, bits);
                if (wide) blend(reinterpret_cast<uint64_t*>(to), kFullMask, bits);
                else blend(reinterpret_cast<uint32_t*>(to), kFullMask, bits);
            } else if (!(tracked_.written >> word & 1u)) {
                std::memcpy(to, warp_.base[words_[word] & kOperandConstant] + (words_[word] & ~kOperandFlags), wide ? 256 : 128);
            }
            (tracked_.in_ext ? u_.scratch_ext : insn.o)[word] = 256 * word | (wide ? kOperandWide : 0);
        }
        if (tracked_.in_ext) insn.ext = 0;
        u_.scratch.predicates = warp_.predicates;
        tracked_.fn(u_.scratch, insn, m_);
    }

    // ((x op y), undefined where it matters), for predicates x, y with undefined lanes ux, uy.
    static Mask combine(uint32_t op, Mask x, Mask ux, Mask y, Mask uy) {
        if (op == 0) return (ux & uy) | (ux & y) | (uy & x);
        if (op == 1) return (ux & uy) | (ux & ~y) | (uy & ~x);
        return ux | uy;
    }
    // Where the destination is a register, of `set`, all of it is one bit's copy.
    void write_result(uint32_t word, Mask lanes) {
        const TrackedOperand* to = operand_at(word, Role::Destination);
        if (!to) return;
        mark(*to, m_, lanes & m_);
        if (!to->predicate) blend(reinterpret_cast<uint32_t*>(u_.bits.data() + size_t{to->place} * 128), lanes & m_, kAllOnes);
    }
    void predicates() {
        const Mask a = source_predicate(1), b = tracked_.table < 3 ? source_predicate(2) : 0;
        find_origins();
        write_result(0, tracked_.table == 3 ? a : combine(tracked_.table, predicate_value(words_[1]), a, predicate_value(words_[2]), b));
    }
    void compare() {
        Mask result = 0;
        for (const TrackedOperand& operand : tracked_.operands)
            if (operand.role == Role::Source && !operand.predicate) result |= undefined(operand, tracked_.bits);
        for (Mask left = tracked_.table ? result : 0; left; left &= left - 1) {  // unequal in a defined bit
            const int l = lowest(left);
            const uint64_t defined = ~(source_bits(2, l) | source_bits(3, l)) & tracked_.bits;
            if ((value(words_[2], l) ^ value(words_[3], l)) & defined) result &= ~(1u << l);
        }
        Mask p = result, q = result;
        if (const int boolean = insn_.mode & 3) {
            Insn plain = insn_;
            plain.mode = 0;
            plain.o[0] = plain.o[1] = kPredicateSink * 2;
            tracked_.fn(warp_, plain, m_);
            const Mask r = warp_.predicates[kPredicateSink], uc = source_predicate(4), c = predicate_value(insn_.ext);
            const uint32_t op = static_cast<uint32_t>(boolean) - 1;
            p = combine(op, r, result, c, uc);
            q = combine(op, ~r, result, c, uc);
        }
        find_origins();
        write_result(0, p);
        write_result(1, q);
    }

    // o: d, p, a, b, c, members. As the handler does (warp_ops.cpp).
    void shuffle() {
        const TrackedOperand *a = operand_at(2, Role::Source), *d = operand_at(0, Role::Destination);
        uint64_t out[kLanes] = {};
        uint32_t from_origin[kLanes] = {};
        uint64_t bits[kLanes];
        gather(2, bits);
        Mask moved = 0;
        for (Mask left = a && u_.lanes[a->place] & m_ ? m_ : 0; left; left &= left - 1) {
            const int l = lowest(left);
            const int b = static_cast<int>(value(words_[3], l) & 31u), c = static_cast<int>(value(words_[4], l)), bound = c & 31, segment = c >> 8 & 31;
            const int most = (l & segment) | (bound & ~segment);
            int from = tracked_.table == 0 ? l - b : tracked_.table == 1 ? l + b : tracked_.table == 2 ? (l ^ b) : ((l & segment) | (b & ~segment));
            if (tracked_.table == 0 ? from < most : from > most) from = l;
            from &= 31;
            if (!(m_ >> from & 1u)) continue;  // reported by the handler
            out[l] = bits[from];
            from_origin[l] = u_.origins[a->place * kLanes + static_cast<uint32_t>(from)];
            moved |= static_cast<Mask>(out[l] != 0) << l;
        }
        define();
        std::copy(from_origin, from_origin + kLanes, origin_);
        if (d && moved) put(*d, moved, out);
    }

    // Offset of the access in the thread's local memory; false: elsewhere, or where the handler will report it.
    bool local_offset(int lane, size_t& at) const {
        const uint32_t word = words_[tracked_.rule == Rule::StoreLocal ? 0 : tracked_.vector];
        uint64_t address = value(word, lane) + static_cast<uint64_t>(static_cast<int64_t>(insn_.imm));
        if (!(word & kOperandWide)) address &= 0xffffffffu;
        if (tracked_.space == Space::Generic && (address & kWindowMask) != kLocalWindow) return false;
        address &= ~kWindowMask;
        const uint64_t size = warp_.launch->kernel->local_bytes, bytes = uint64_t{tracked_.bytes} * tracked_.vector;
        if (address > size || bytes > size - address) return false;
        at = static_cast<size_t>(lane) * size + address;
        return true;
    }
    Mask local_lanes() const {
        Mask out = 0;
        size_t at = 0;
        for (Mask left = m_; left; left &= left - 1) out |= static_cast<Mask>(local_offset(lowest(left), at)) << lowest(left);
        return out;
    }
    void load() {
        const uint32_t here = kFromLocal | static_cast<uint32_t>(&insn_ - warp_.launch->kernel->code.data());
        define();
        size_t at[kLanes];
        Mask inside = 0;
        for (Mask left = m_; left; left &= left - 1)
            if (local_offset(lowest(left), at[lowest(left)])) inside |= left & (0u - left);
        std::fill(origin_, origin_ + kLanes, here);
        for (const TrackedOperand& to : tracked_.operands) {
            if (to.role != Role::Destination) continue;
            uint64_t out[kLanes] = {};
            for (Mask left = inside; left; left &= left - 1) {
                uint64_t& bits = out[lowest(left)];
                std::memcpy(&bits, u_.local.data() + at[lowest(left)] + size_t{to.word} * tracked_.bytes, tracked_.bytes);
                const int shift = 64 - 8 * tracked_.bytes;
                if (tracked_.sign_extends) bits = static_cast<uint64_t>(static_cast<int64_t>(bits << shift) >> shift);
            }
            put(to, inside, out);
        }
    }
    void store() {
        for (Mask left = m_; left; left &= left - 1) {
            size_t at = 0;
            if (!local_offset(lowest(left), at)) continue;
            for (uint32_t n = 0; n < tracked_.vector; ++n) {
                const TrackedOperand* operand = operand_at(1 + n, Role::Stored);
                const uint64_t bits = operand ? bits_of(*operand, lowest(left)) : 0;
                std::memcpy(u_.local.data() + at + size_t{n} * tracked_.bytes, &bits, tracked_.bytes);
            }
        }
    }

    void copy() {  // o[2] bytes from o[1] to o[0]
        for (Mask left = m_; left && !u_.local.empty(); left &= left - 1) {
            uint8_t* own = u_.local.data() + static_cast<size_t>(lowest(left)) * warp_.launch->kernel->local_bytes;
            std::memmove(own + insn_.o[0], own + insn_.o[1], insn_.o[2]);
        }
    }

    std::string purpose(Role role) const {
        switch (role) {
            case Role::Guard: return insn_.kind == Kind::Branch ? "decides this branch" : insn_.kind == Kind::Exit ? "decides whether the thread exits here" : "decides whether this instruction is executed";
            case Role::Address: return "is the address of this access";
            case Role::Stored: return "is stored here";
            case Role::Selector: return "says which thread this shuffle reads";
            case Role::Members: return "is the member mask here";
            case Role::Exchanged: return "is read by other threads here";
            case Role::Matrix: return "is an operand of this matrix product";
            case Role::Accumulator: return "is added to by this matrix product, whose scale-d is true";
            case Role::Barrier: return "names the barrier or its thread count here";
            default: return "is an operand here";
        }
    }
    std::string origin_text(const std::string& used, uint32_t reg) const {
        if (reg == kUnknown) return "it was computed from an undefined value";
        const Tracking& tracking = *warp_.launch->kernel->tracking;
        const std::string name = tracking.name(reg);
        std::string text = name == used ? "the thread has not written it; " : "it comes from " + name + ", which the thread has not written; ";
        const auto found = tracking.written_at.find(reg);
        if (found == tracking.written_at.end()) return text + "no instruction does: give the variable a value where it is declared";
        return text + "the first to write it is " + describe(*warp_.launch, found->second) + ", which the thread went past: give the variable a value on every way to this use";
    }
    std::string load_text(uint32_t pc) const {
        return "it comes from local memory (an array, or a variable whose address is taken), of bytes that the thread had not written when it read them at " +
               describe(*warp_.launch, pc);
    }

    static constexpr uint32_t kUnknown = 0x7fffffffu;  // an origin

    Warp& warp_;
    const Insn& insn_;
    const TrackedInsn& tracked_;
    UndefinedState& u_;
    Mask m_;
    const uint32_t* words_;
    uint32_t origin_[kLanes];
    bool keep_origins_ = false;
};

TrackedOperand guard_of(const TrackedInsn& tracked) {
    TrackedOperand out;
    out.place = tracked.guard;
    out.reg = tracked.guard_reg;
    out.role = Role::Guard;
    out.predicate = true;
    return out;
}

}  // namespace

void start_tracking(Warp& warp) {
    const Kernel& kernel = *warp.launch->kernel;
    const Tracking& tracking = *kernel.tracking;
    if (!warp.undefined) {
        warp.undefined = std::make_shared<UndefinedState>();
        UndefinedState& u = *warp.undefined;
        const size_t places = kernel.register_bytes / 128;
        u.bits.resize(kernel.register_bytes);
        u.lanes.resize(places);
        u.origins.resize(places * kLanes);
        u.predicates.resize(kernel.num_predicates);
        u.predicate_origins.resize(size_t{kernel.num_predicates} * kLanes);
        if (tracking.local) u.local.resize(size_t{kernel.local_bytes} * kLanes);
        u.scratch.registers = u.scratch_file;
        u.scratch.base[0] = u.scratch.base[1] = u.scratch_file;
        u.scratch.ext = u.scratch_ext;
    }
    UndefinedState& u = *warp.undefined;
    std::fill(u.lanes.begin(), u.lanes.end(), 0u);
    std::fill(u.predicates.begin(), u.predicates.end(), 0u);
    std::fill(u.local.begin(), u.local.end(), uint8_t{0xff});
    for (const TrackedOperand& start : tracking.from_start) {
        (start.predicate ? u.predicates : u.lanes)[start.place] = kFullMask;
        std::vector<uint32_t>& origins = start.predicate ? u.predicate_origins : u.origins;
        std::fill_n(origins.begin() + static_cast<std::ptrdiff_t>(size_t{start.place} * kLanes), kLanes, start.reg);
        if (!start.predicate) std::memset(u.bits.data() + size_t{start.place} * 128, 0xff, start.wide ? 256 : 128);
    }
}

void run_tracked(Warp& warp, const Insn& insn, Mask lanes) {
    const Launch& launch = *warp.launch;
    const Tracking& tracking = *launch.kernel->tracking;
    const TrackedInsn& tracked = tracking.insns[tracking.at[static_cast<size_t>(&insn - launch.kernel->code.data())] - 1];
    UndefinedState& u = *warp.undefined;
    Mask doubtful = tracked.guard_tracked ? u.predicates[tracked.guard] & lanes : 0;
    if (doubtful && tracked.effects) {
        Step(warp, insn, tracked, doubtful).report_use(guard_of(tracked), doubtful);
        doubtful = 0;
    }
    const Mask m = lanes & (warp.predicates[tracked.guard] ^ tracked.guard_flip);
    if (m) {
        Step step(warp, insn, tracked, m);
        step.judge();
        step.propagate();
        if (tracked.count != CountAs::Nothing && launch.counting)
            (tracked.count == CountAs::Mufu ? warp.launch->counters.mufu : warp.launch->counters.fp32_ops) += static_cast<uint64_t>(__builtin_popcount(m));
        tracked.fn(warp, insn, m);
    }
    if (doubtful) Step(warp, insn, tracked, doubtful).doubt(doubtful);
}

void check_control(Warp& warp, const Insn& insn, Mask lanes) {
    const Tracking& tracking = *warp.launch->kernel->tracking;
    const uint32_t at = tracking.at[static_cast<size_t>(&insn - warp.launch->kernel->code.data())];
    if (at == 0) return;
    const TrackedInsn& tracked = tracking.insns[at - 1];
    const Mask doubtful = tracked.guard_tracked ? warp.undefined->predicates[tracked.guard] & lanes : 0;
    if (doubtful) Step(warp, insn, tracked, doubtful).report_use(guard_of(tracked), doubtful);
    const Mask m = lanes & (warp.predicates[tracked.guard] ^ tracked.guard_flip);
    if (!m) return;
    Step step(warp, insn, tracked, m);
    step.judge();
    step.propagate();  // what a barrier's reduction writes is defined
}

}  // namespace kw
