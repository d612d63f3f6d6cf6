#include "json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <system_error>

#include "errors.h"
#include "resnet_deploy.h"

namespace resnet_deploy {
namespace internal {
namespace {

constexpr int kMaxDepth = 64;

// Decodes the character at a place and moves past it; nothing for bytes that are not UTF-8.
std::optional<std::uint32_t> decode(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const std::uint32_t lead = byte(at);
  const std::size_t length = lead < 0x80 ? 1 : lead >> 5U == 6 ? 2 : lead >> 4U == 14 ? 3 : lead >> 3U == 30 ? 4 : 0;
  if (length == 0 || at + length > text.size()) return std::nullopt;
  if (length == 1) return byte(at++);
  std::uint32_t code = lead & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (byte(at + i) >> 6U != 2) return std::nullopt;
    code = code << 6U | (byte(at + i) & 0x3FU);
  }
  constexpr std::array<std::uint32_t, 5> smallest = {0, 0, 0x80, 0x800, 0x10000};
  if (code < smallest.at(length) || code > 0x10FFFF) return std::nullopt;
  at += length;
  return code;
}

void encode(std::uint32_t code, std::string& out) {
  const auto put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  const auto follow = [&](unsigned shift) { put(0x80U | (code >> shift & 0x3FU)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0U | code >> 6U), follow(0);
  } else if (code < 0x10000) {
    put(0xE0U | code >> 12U), follow(6), follow(0);
  } else {
    put(0xF0U | code >> 18U), follow(12), follow(6), follow(0);
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json parse_document() {
    Json document = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("expected the end");
    return document;
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw_input_error(std::string(what) + " at byte " + std::to_string(at_)); }
  [[nodiscard]] bool at_end() const { return at_ >= text_.size(); }
  [[nodiscard]] char peek() const { return at_end() ? '\0' : text_[at_]; }

  bool take(char wanted) {
    if (at_end() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) fail("nested too deep");
    skip_space();
    Json value;
    switch (peek()) {
      case '{':
        parse_object(value, depth);
        break;
      case '[':
        parse_array(value, depth);
        break;
      case '"':
        value.kind = Json::Kind::string;
        value.text = parse_string();
        break;
      case 't':
      case 'f':
        value.kind = Json::Kind::boolean;
        value.truth = peek() == 't';
        expect_word(value.truth ? "true" : "false");
        break;
      case 'n':
        expect_word("null");
        break;
      default:
        value.kind = Json::Kind::number;
        value.text = parse_number();
    }
    return value;
  }

  void expect_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("expected a value");
    at_ += word.size();
  }

  void parse_array(Json& array, int depth) {
    array.kind = Json::Kind::array;
    ++at_;
    skip_space();
    if (take(']')) return;
    do array.items.push_back(parse_value(depth + 1));
    while (skip_space(), take(','));
    if (!take(']')) fail("expected , or ]");
  }

  void parse_object(Json& object, int depth) {
    object.kind = Json::Kind::object;
    ++at_;
    skip_space();
    if (take('}')) return;
    do {
      skip_space();
      if (peek() != '"') fail("expected a name");
      object.keys.push_back(parse_string());
      skip_space();
      if (!take(':')) fail("expected :");
      object.items.push_back(parse_value(depth + 1));
    } while (skip_space(), take(','));
    if (!take('}')) fail("expected , or }");
    std::vector<std::string_view> names(object.keys.begin(), object.keys.end());
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) != names.end()) fail("a name that stands twice, before");
  }

  void skip_digits() {
    const std::size_t first = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == first) fail("expected a value");
  }

  std::string parse_number() {
    const std::size_t start = at_;
    take('-');
    if (!take('0')) skip_digits();
    if (take('.')) skip_digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      skip_digits();
    }
    return std::string(text_.substr(start, at_ - start));
  }

  std::string parse_string() {
    ++at_;
    std::string out;
    while (!take('"')) {
      if (at_end()) fail("a string without its end");
      if (take('\\')) {
        parse_escape(out);
      } else if (static_cast<unsigned char>(text_[at_]) < 0x20) {
        fail("a control character in a string");
      } else {
        const auto code = decode(text_, at_);
        if (!code) fail("not UTF-8");
        encode(*code, out);
      }
    }
    return out;
  }

  void parse_escape(std::string& out) {
    constexpr std::string_view names = "\"\\/bfnrt";
    constexpr std::string_view values = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      encode(parse_unicode(), out);
      return;
    }
    const std::size_t index = names.find(peek());
    if (at_end() || index == std::string_view::npos) fail("an unknown escape");
    out.push_back(values[index]);
    ++at_;
  }

  // The character of \uXXXX, or of two that are a surrogate pair.
  std::uint32_t parse_unicode() {
    const std::uint32_t high = parse_hex();
    if (high >> 10U != 0x36 || text_.substr(at_, 2) != "\\u") return high;
    const std::size_t after = at_;
    at_ += 2;
    const std::uint32_t low = parse_hex();
    if (low >> 10U == 0x37) return 0x10000 + ((high & 0x3FFU) << 10U | (low & 0x3FFU));
    at_ = after;  // a surrogate that stands alone
    return high;
  }

  std::uint32_t parse_hex() {
    std::uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const char* end = digits.data() + digits.size();
    const auto [last, error] = std::from_chars(digits.data(), end, code, 16);
    if (digits.size() != 4 || error != std::errc() || last != end) fail("expected four hexadecimal digits");
    at_ += 4;
    return code;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Json parse_json(std::string_view text) { return Parser(text).parse_document(); }

namespace {

void append_unit(std::uint32_t code, std::string& out) {
  constexpr std::string_view digits = "0123456789abcdef";
  out += "\\u";
  for (const unsigned shift : {12U, 8U, 4U, 0U}) out.push_back(digits[code >> shift & 0xFU]);
}

}  // namespace
}  // namespace internal

std::string json_string(std::string_view text) {
  constexpr std::string_view special = "\"\\\b\f\n\r\t";
  constexpr std::string_view names = "\"\\bfnrt";
  std::string out = "\"";
  for (std::size_t at = 0; at < text.size();) {
    const auto decoded = internal::decode(text, at);
    const std::uint32_t code = decoded ? *decoded : 0xDC00U + static_cast<unsigned char>(text[at++]);
    if (code < 0x80 && special.find(static_cast<char>(code)) != std::string_view::npos) {
      (out += '\\') += names[special.find(static_cast<char>(code))];
    } else if (code >= 0x20 && code < 0x7F) {
      out.push_back(static_cast<char>(code));
    } else if (code >= 0x10000) {
      internal::append_unit(0xD800 + ((code - 0x10000) >> 10U), out);
      internal::append_unit(0xDC00 + ((code - 0x10000) & 0x3FFU), out);
    } else {
      internal::append_unit(code, out);
    }
  }
  return out += '"';
}

}  // namespace resnet_deploy
