// Tokens of PTX text (PTX ISA, "Lexical Elements").
// SPDX-License-Identifier: Apache-2.0
#include "lexer.h"

#include "base.h"

namespace kw {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || c == '%' || c == '.';
}

int digit_value(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

}  // namespace

void Lexer::skip_space() {
    while (at_ < text_.size()) {
        const char c = text_[at_];
        if (c == '\n') {
            ++line_;
            ++at_;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
            ++at_;
        } else if (c == '/' && at_ + 1 < text_.size() && text_[at_ + 1] == '/') {
            while (at_ < text_.size() && text_[at_] != '\n') ++at_;
        } else if (c == '/' && at_ + 1 < text_.size() && text_[at_ + 1] == '*') {
            const size_t end = text_.find("*/", at_ + 2);
            if (end == std::string_view::npos) throw LoadError(line_, "a comment opened by /* is never closed");
            for (; at_ < end + 2; ++at_) line_ += text_[at_] == '\n';
        } else {
            return;
        }
    }
}

void Lexer::skip_line(int line) {
    if (line_ != line) return;
    while (at_ < text_.size() && text_[at_] != '\n') ++at_;
}

Token Lexer::number() {
    Token token;
    token.line = line_;
    token.begin = at_;
    token.kind = TokenKind::Integer;
    int base = 10;
    size_t at = at_;
    int want_digits = 0;
    if (text_[at] == '0' && at + 1 < text_.size()) {
        const char c = text_[at + 1];
        if (c == 'x' || c == 'X') base = 16, at += 2;
        else if (c == 'b' || c == 'B') base = 2, at += 2;
        else if (c == 'f' || c == 'F') base = 16, at += 2, want_digits = 8, token.kind = TokenKind::Float32;
        else if (c == 'd' || c == 'D') base = 16, at += 2, want_digits = 16, token.kind = TokenKind::Float64;
    }
    const size_t first = at;
    while (at < text_.size() && digit_value(text_[at]) < base) {
        if (__builtin_mul_overflow(token.value, static_cast<uint64_t>(base), &token.value) ||
            __builtin_add_overflow(token.value, static_cast<uint64_t>(digit_value(text_[at])), &token.value))
            throw LoadError(line_, "the number " + std::string(text_.substr(at_, at - at_ + 1)) + "... needs more than 64 bits");
        ++at;
    }
    const int digits = static_cast<int>(at - first);
    if (digits == 0 || (want_digits && digits != want_digits))
        throw LoadError(line_, "malformed number '" + std::string(text_.substr(at_, at - at_ + 1)) + "'");
    if (at < text_.size() && (text_[at] == 'U' || text_[at] == 'u')) ++at;
    token.text = text_.substr(at_, at - at_);
    at_ = at;
    return token;
}

Token Lexer::next() {
    skip_space();
    Token token;
    token.line = line_;
    token.begin = at_;
    if (at_ >= text_.size()) return token;
    const char c = text_[at_];
    if (is_digit(c)) return number();
    if (c == '"') {
        size_t end = at_ + 1;
        while (end < text_.size() && text_[end] != '"' && text_[end] != '\n') end += text_[end] == '\\' ? 2 : 1;
        if (end >= text_.size() || text_[end] != '"') throw LoadError(line_, "a string is never closed");
        token.kind = TokenKind::String;
        token.text = text_.substr(at_ + 1, end - at_ - 1);
        at_ = end + 1;
        return token;
    }
    if (is_name(c)) {
        size_t end = at_ + 1;
        while (end < text_.size()) {
            if (is_name(text_[end])) ++end;
            else if (text_[end] == ':' && end + 2 < text_.size() && text_[end + 1] == ':' && is_name(text_[end + 2])) end += 2;
            else break;
        }
        token.kind = TokenKind::Identifier;
        token.text = text_.substr(at_, end - at_);
        at_ = end;
        return token;
    }
    if (std::string_view("{}[](),;:@!|+-=<>*").find(c) == std::string_view::npos)
        throw LoadError(line_, std::string("unexpected character '") + c + "'");
    token.kind = TokenKind::Punctuation;
    token.text = text_.substr(at_, 1);
    ++at_;
    return token;
}

}  // namespace kw
