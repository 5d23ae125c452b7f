// Tokens of PTX text (PTX ISA, "Lexical Elements").
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace kw {

enum class TokenKind : uint8_t { Identifier, Integer, Float32, Float64, String, Punctuation, End };

struct Token {
    TokenKind kind = TokenKind::End;
    std::string_view text;
    uint64_t value = 0;  // Integer value, or the bits of a float literal
    int line = 1;
    size_t begin = 0;

    bool is(char c) const { return kind == TokenKind::Punctuation && text[0] == c; }
    bool is(std::string_view word) const { return kind == TokenKind::Identifier && text == word; }
};

class Lexer {
   public:
    explicit Lexer(std::string_view text) : text_(text) {}
    // Next token; End at the end of the text. Throws LoadError on a character PTX does not have.
    Token next();
    // Skips what is left of `line`, for directives that end with their line (.loc, .file).
    void skip_line(int line);

   private:
    void skip_space();
    Token number();

    std::string_view text_;
    size_t at_ = 0;
    int line_ = 1;
};

}  // namespace kw
