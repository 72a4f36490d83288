// A reader of JSON for manifests: strict, but for the NaN and Infinity that Python writes; bounded in size and depth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <locale>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace edgeseg {
namespace json {

enum class Kind : unsigned char { null, boolean, number, string, array, object };

struct Value {
  Kind kind = Kind::null;
  bool truth = false;
  double number = 0;
  std::string text;
  std::vector<Value> items;
  std::vector<std::string> keys;  // of an object: names of the items

  bool is(Kind wanted) const noexcept { return kind == wanted; }

  // The last item of that name, as Python has it, else nullptr.
  const Value* find(const char* key) const noexcept {
    for (std::size_t i = keys.size(); i-- > 0;) {
      if (keys[i] == key) return &items[i];
    }
    return nullptr;
  }
};

constexpr std::size_t kMostText = std::size_t(8) << 20;
constexpr int kMostDepth = 64;
constexpr std::size_t kMostValues = std::size_t(1) << 20;

class Reader {
 public:
  Reader(const char* text, std::size_t size, std::size_t most) noexcept : at_(text), end_(text + size), most_(most) {}

  bool document(Value& out) {
    if (!value(out, 0)) return false;
    space();
    return at_ == end_;
  }

 private:
  void space() noexcept {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }

  bool word(const char* expected) noexcept {
    const char* p = at_;
    for (; *expected; ++expected, ++p) {
      if (p == end_ || *p != *expected) return false;
    }
    at_ = p;
    return true;
  }

  bool value(Value& out, int depth) {
    space();
    if (at_ == end_ || depth > kMostDepth || ++values_ > most_) return false;
    switch (*at_) {
      case '{':
        return members(out, depth, true);
      case '[':
        return members(out, depth, false);
      case '"':
        out.kind = Kind::string;
        return string(out.text);
      case 't':
        out.kind = Kind::boolean;
        out.truth = true;
        return word("true");
      case 'f':
        out.kind = Kind::boolean;
        return word("false");
      case 'n':
        return word("null");
      default:
        out.kind = Kind::number;
        return number(out.number);
    }
  }

  bool members(Value& out, int depth, bool object) {
    const char close = object ? '}' : ']';
    out.kind = object ? Kind::object : Kind::array;
    ++at_;
    space();
    if (at_ < end_ && *at_ == close) return ++at_, true;
    for (;;) {
      if (object) {
        space();
        out.keys.emplace_back();
        if (at_ == end_ || *at_ != '"' || !string(out.keys.back())) return false;
        space();
        if (at_ == end_ || *at_++ != ':') return false;
      }
      out.items.emplace_back();
      if (!value(out.items.back(), depth + 1)) return false;
      space();
      if (at_ == end_) return false;
      if (*at_ == close) return ++at_, true;
      if (*at_++ != ',') return false;
    }
  }

  bool number(double& out) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    if (word("NaN")) return out = std::numeric_limits<double>::quiet_NaN(), true;
    const char* start = at_;
    const bool minus = at_ < end_ && *at_ == '-';
    if (minus) ++at_;
    if (word("Infinity")) return out = minus ? -inf : inf, true;
    const char* first = at_;
    std::int64_t whole = 0;
    while (digit()) {
      if (at_ - first < 15) whole = 10 * whole + (*at_ - '0');
      ++at_;
    }
    if (at_ == first || (*first == '0' && at_ - first > 1)) return false;
    const bool plain = at_ - first <= 15 && (at_ == end_ || (*at_ != '.' && *at_ != 'e' && *at_ != 'E'));
    if (plain) return out = static_cast<double>(minus ? -whole : whole), true;
    if (at_ < end_ && *at_ == '.' && !digits_after(at_ + 1)) return false;
    if (at_ < end_ && (*at_ == 'e' || *at_ == 'E')) {
      const char* after = at_ + 1;
      if (after < end_ && (*after == '+' || *after == '-')) ++after;
      if (!digits_after(after)) return false;
    }
    if (at_ - start > 400) return false;
    // strtod would take the decimal point of the user's locale.
    std::istringstream stream(std::string(start, at_));
    stream.imbue(std::locale::classic());
    if (!(stream >> out) && (out > 1 || out < -1)) out = minus ? -inf : inf;  // else what is left of a number near 0
    return true;
  }

  bool digit() const noexcept { return at_ < end_ && *at_ >= '0' && *at_ <= '9'; }

  bool digits_after(const char* start) noexcept {
    at_ = start;
    while (digit()) ++at_;
    return at_ > start;
  }

  bool string(std::string& out) {
    ++at_;
    while (at_ < end_) {
      const char c = *at_++;
      if (c == '"') return true;
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') {
        out.push_back(c);
      } else if (!escape(out)) {
        return false;
      }
    }
    return false;
  }

  bool escape(std::string& out) {
    if (at_ == end_) return false;
    const char c = *at_++;
    const char* plain = "\"\\/bfnrt";
    const char* meant = "\"\\/\b\f\n\r\t";
    for (int i = 0; plain[i]; ++i) {
      if (c == plain[i]) return out.push_back(meant[i]), true;
    }
    std::uint32_t code = 0, low = 0;
    if (c != 'u' || !hex(code)) return false;
    if (code >= 0xD800 && code < 0xDC00) {
      const char* before = at_;
      if (word("\\u") && hex(low) && low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else {
        at_ = before;
      }
    }
    if (code >= 0xD800 && code < 0xE000) code = 0xFFFD;  // half of a pair
    utf8(code, out);
    return true;
  }

  bool hex(std::uint32_t& out) noexcept {
    if (end_ - at_ < 4) return false;
    out = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = *at_++;
      const int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (d < 0) return false;
      out = out * 16 + static_cast<std::uint32_t>(d);
    }
    return true;
  }

  static void utf8(std::uint32_t code, std::string& out) {
    const auto tail = [&](int shift) { out.push_back(static_cast<char>(0x80 | ((code >> shift) & 0x3F))); };
    if (code < 0x80) {
      out.push_back(static_cast<char>(code));
    } else if (code < 0x800) {
      out.push_back(static_cast<char>(0xC0 | (code >> 6))), tail(0);
    } else if (code < 0x10000) {
      out.push_back(static_cast<char>(0xE0 | (code >> 12))), tail(6), tail(0);
    } else {
      out.push_back(static_cast<char>(0xF0 | (code >> 18))), tail(12), tail(6), tail(0);
    }
  }

  const char* at_;
  const char* end_;
  std::size_t most_, values_ = 0;
};

// False where the text is no JSON, or nested deeper than ``kMostDepth``, or holds more than ``most`` values.
inline bool parse(const char* text, std::size_t size, Value& out, std::size_t most = kMostValues) {
  return Reader(text, size, most).document(out);
}

}  // namespace json
}  // namespace edgeseg
