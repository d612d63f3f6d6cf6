#include "resnet_deploy.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <sstream>
#include <string_view>
#include <system_error>

#if defined(RESNET_DEPLOY_ONNXRUNTIME)
#include <onnxruntime_cxx_api.h>
#elif defined(RESNET_DEPLOY_TENSORRT)
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <sys/utsname.h>
#else
#error "define RESNET_DEPLOY_ONNXRUNTIME or RESNET_DEPLOY_TENSORRT: see CMakeLists.txt"
#endif

namespace resnet_deploy {
namespace {

constexpr std::int64_t kSchemaVersion = 2;
constexpr std::size_t kMaxManifestBytes = std::size_t{256} << 20;
constexpr int kMaxDepth = 64;
constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;
constexpr const char* kRemake = ". Make the bundle again with `resnet-deploy export ... --overwrite`";

[[noreturn]] void bad_input(const std::string& message) { throw Error(Exit::input, message); }
[[noreturn]] void bad_machine(const std::string& message) { throw Error(Exit::machine, message); }

// ---- JSON: RFC 8259, as Python's json module writes it ----------------------------------------------------------------

// Numbers stay text: nothing is lost of one that no field of ours needs, and messages show the very digits.
struct Json {
  enum class Kind { null, boolean, number, string, array, object };
  Kind kind = Kind::null;
  bool truth = false;
  std::string text;               // of a number, or a string in UTF-8 (surrogates that stand alone included, as in Python)
  std::vector<std::string> keys;  // of an object, beside its items
  std::vector<Json> items;
};

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

  Json document() {
    Json value = this->value(0);
    space();
    if (at_ != text_.size()) fail("expected the end");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* what) const { bad_input(std::string(what) + " at byte " + std::to_string(at_)); }
  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char wanted) {
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void space() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr && text_[at_] != '\0') ++at_;
  }

  Json value(int depth) {
    if (depth > kMaxDepth) fail("nested too deep");
    space();
    Json found;
    switch (peek()) {
      case '{':
        object(found, depth);
        break;
      case '[':
        array(found, depth);
        break;
      case '"':
        found.kind = Json::Kind::string;
        found.text = string();
        break;
      case 't':
      case 'f':
        found.kind = Json::Kind::boolean;
        found.truth = peek() == 't';
        word(found.truth ? "true" : "false");
        break;
      case 'n':
        word("null");
        break;
      default:
        found.kind = Json::Kind::number;
        found.text = number();
    }
    return found;
  }

  void word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) fail("expected a value");
    at_ += wanted.size();
  }

  void array(Json& found, int depth) {
    found.kind = Json::Kind::array;
    ++at_;
    space();
    if (take(']')) return;
    do found.items.push_back(value(depth + 1));
    while (space(), take(','));
    if (!take(']')) fail("expected , or ]");
  }

  void object(Json& found, int depth) {
    found.kind = Json::Kind::object;
    ++at_;
    space();
    if (take('}')) return;
    do {
      space();
      if (peek() != '"') fail("expected a name");
      found.keys.push_back(string());
      space();
      if (!take(':')) fail("expected :");
      found.items.push_back(value(depth + 1));
    } while (space(), take(','));
    if (!take('}')) fail("expected , or }");
    std::vector<std::string_view> names(found.keys.begin(), found.keys.end());
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) != names.end()) fail("a name that stands twice, before");
  }

  std::string number() {
    const std::size_t start = at_;
    const auto digits = [this] {
      const std::size_t first = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == first) fail("expected a value");
    };
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    return std::string(text_.substr(start, at_ - start));
  }

  std::string string() {
    ++at_;
    std::string out;
    while (!take('"')) {
      if (at_ >= text_.size()) fail("a string without its end");
      if (take('\\')) {
        escape(out);
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

  void escape(std::string& out) {
    constexpr std::string_view names = "\"\\/bfnrt";
    constexpr std::string_view values = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      std::uint32_t code = hex();
      if (code >> 10U == 0x36 && text_.substr(at_, 2) == "\\u") {  // perhaps the first half of a pair
        const std::size_t after = at_;
        at_ += 2;
        const std::uint32_t low = hex();
        if (low >> 10U == 0x37) {
          code = 0x10000 + ((code & 0x3FFU) << 10U | (low & 0x3FFU));
        } else {
          at_ = after;
        }
      }
      encode(code, out);
      return;
    }
    const std::size_t index = names.find(peek());
    if (at_ >= text_.size() || index == std::string_view::npos) fail("an unknown escape");
    out.push_back(values[index]);
    ++at_;
  }

  std::uint32_t hex() {
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

std::string json_string(std::string_view text) {
  constexpr std::string_view special = "\"\\\b\f\n\r\t";
  constexpr std::string_view names = "\"\\bfnrt";
  std::string out = "\"";
  const auto unit = [&out](std::uint32_t code) {
    constexpr std::string_view digits = "0123456789abcdef";
    out += "\\u";
    for (const unsigned shift : {12U, 8U, 4U, 0U}) out.push_back(digits[code >> shift & 0xFU]);
  };
  for (std::size_t at = 0; at < text.size();) {
    const auto found = decode(text, at);
    const std::uint32_t code = found ? *found : 0xDC00U + static_cast<unsigned char>(text[at++]);
    if (code < 0x80 && special.find(static_cast<char>(code)) != std::string_view::npos) {
      (out += '\\') += names[special.find(static_cast<char>(code))];
    } else if (code >= 0x20 && code < 0x7F) {
      out.push_back(static_cast<char>(code));
    } else if (code >= 0x10000) {
      unit(0xD800 + ((code - 0x10000) >> 10U));
      unit(0xDC00 + ((code - 0x10000) & 0x3FFU));
    } else {
      unit(code);
    }
  }
  return out += '"';
}

namespace {

// A value of the manifest with its place, for messages.
class Field {
 public:
  Field(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  [[nodiscard]] std::optional<Field> find(std::string_view name) const {
    if (value_->kind != Json::Kind::object) wrong("an object");
    const auto found = std::find(value_->keys.begin(), value_->keys.end(), name);
    if (found == value_->keys.end()) return std::nullopt;
    const auto index = static_cast<std::size_t>(found - value_->keys.begin());
    return Field(value_->items[index], path_.empty() ? std::string(name) : path_ + "." + std::string(name));
  }

  [[nodiscard]] Field at(std::string_view name) const {
    auto found = find(name);
    if (!found) bad_input("manifest.json has no " + (path_.empty() ? "" : path_ + ".") + std::string(name) + kRemake);
    return *std::move(found);
  }

  [[nodiscard]] bool null() const { return value_->kind == Json::Kind::null; }

  [[nodiscard]] const std::string& text() const {
    if (value_->kind != Json::Kind::string) wrong("a string");
    return value_->text;
  }

  // A string, or nothing of null.
  [[nodiscard]] std::string text_or_null() const { return null() ? "" : text(); }

  [[nodiscard]] bool truth() const {
    if (value_->kind != Json::Kind::boolean) wrong("true or false");
    return value_->truth;
  }

  [[nodiscard]] std::int64_t integer() const {
    std::int64_t number = 0;
    const char* end = value_->text.data() + value_->text.size();
    const auto [last, error] = std::from_chars(value_->text.data(), end, number);
    if (value_->kind != Json::Kind::number || error != std::errc() || last != end) wrong("a whole number of 64 bits");
    return number;
  }

  [[nodiscard]] double number() const {
    if (value_->kind != Json::Kind::number) wrong("a number");
    double number = 0;
    const char* end = value_->text.data() + value_->text.size();
    const auto [last, error] = std::from_chars(value_->text.data(), end, number);
    if (error != std::errc() || last != end) wrong("a number within a double's range");
    return number;
  }

  [[nodiscard]] std::vector<Field> list() const {
    if (value_->kind != Json::Kind::array) wrong("a list");
    std::vector<Field> found;
    for (const Json& item : value_->items) found.emplace_back(item, path_ + "[" + std::to_string(found.size()) + "]");
    return found;
  }

  // An object's names.
  [[nodiscard]] const std::vector<std::string>& names() const {
    if (value_->kind != Json::Kind::object) wrong("an object");
    return value_->keys;
  }

 private:
  [[noreturn]] void wrong(const char* wanted) const {
    bad_input("manifest.json: " + (path_.empty() ? "the whole" : path_) + " is not " + wanted + kRemake);
  }

  const Json* value_;
  std::string path_;
};

// ---- SHA-256 (FIPS 180-4) ---------------------------------------------------------------------------------------------

constexpr std::array<std::uint32_t, 64> kRounds = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::uint32_t rotated(std::uint32_t x, unsigned n) { return x >> n | x << (32U - n); }

void sha256_block(std::array<std::uint32_t, 8>& state, const unsigned char* block) {
  std::array<std::uint32_t, 64> w{};
  for (std::size_t i = 0; i < 16; ++i) {
    const unsigned char* p = block + 4 * i;
    w[i] = std::uint32_t{p[0]} << 24U | std::uint32_t{p[1]} << 16U | std::uint32_t{p[2]} << 8U | std::uint32_t{p[3]};
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t low = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3U;
    const std::uint32_t high = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10U;
    w[i] = w[i - 16] + low + w[i - 7] + high;
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t one = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) + kRounds[i] + w[i];
    const std::uint32_t two = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
  }
  const std::array<std::uint32_t, 8> now = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state[i] += now[i];
}

// Hexadecimal, as Python's hexdigest.
std::string sha256(std::string_view data) {
  std::array<std::uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
  const std::size_t whole = data.size() / 64 * 64;
  for (std::size_t at = 0; at < whole; at += 64) sha256_block(state, bytes + at);
  std::array<unsigned char, 128> tail{};
  const std::size_t rest = data.size() - whole;
  std::copy(bytes + whole, bytes + data.size(), tail.begin());
  tail.at(rest) = 0x80;
  const std::size_t end = rest < 56 ? 64 : 128;
  const std::uint64_t bits = std::uint64_t{data.size()} * 8;
  for (std::size_t i = 0; i < 8; ++i) tail.at(end - 1 - i) = static_cast<unsigned char>(bits >> (8 * i));
  for (std::size_t at = 0; at < end; at += 64) sha256_block(state, tail.data() + at);
  std::string hex;
  for (const std::uint32_t word : state) {
    for (unsigned shift = 32; shift > 0; shift -= 4) hex.push_back("0123456789abcdef"[word >> (shift - 4) & 0xFU]);
  }
  return hex;
}

// ---- Files and the manifest -------------------------------------------------------------------------------------------

std::string read_file(const std::filesystem::path& path, std::uintmax_t most = UINTMAX_MAX) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) bad_input(path.string() + " is not there, or not a file");
  const auto size = std::filesystem::file_size(path, error);
  if (error || size > most) bad_input(path.string() + " is too large: at most " + std::to_string(most) + " bytes");
  std::string data(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file) bad_input("cannot read " + path.string() + ": " + std::generic_category().message(errno));
  file.read(data.data(), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(file.gcount()) != size) bad_input(path.string() + " ended before its size");
  return data;
}

// Whether a manifest's last member is the SHA-256 of all bytes before it.
bool has_its_digest(std::string_view text) {
  constexpr std::string_view before = R"("digest": ")";
  constexpr std::string_view after = "\"\n}\n";
  constexpr std::size_t digits = 64;
  constexpr std::size_t tail = before.size() + digits + after.size();
  if (text.size() < tail) return false;
  const std::string_view body = text.substr(0, text.size() - tail);
  return text.substr(body.size()) == std::string(before) + sha256(body) + std::string(after);
}

// A manifest.json whose schema version and digest are right.
Json read_manifest(const std::filesystem::path& bundle) {
  const auto path = bundle / "manifest.json";
  std::error_code error;
  if (!std::filesystem::is_directory(bundle, error)) {
    bad_input("there is no bundle at " + bundle.string() + "; make one with `resnet-deploy cpp DIR -o PROJECT`");
  }
  const std::string text = read_file(path, kMaxManifestBytes);
  Json manifest;
  try {
    manifest = Parser(text).document();
  } catch (const Error& found) {
    bad_input(path.string() + " cannot be read as a manifest (" + found.what() + ")" + kRemake);
  }
  const Field root(manifest, "");
  if (const std::int64_t version = root.at("schema_version").integer(); version != kSchemaVersion) {
    bad_input(path.string() + " has schema version " + std::to_string(version) + ", this program reads " +
              std::to_string(kSchemaVersion) + ". Generate the program again with the resnet-deploy that made the bundle");
  }
  if (!has_its_digest(text)) {
    bad_input(path.string() + " was changed by hand: its digest does not match" + kRemake);
  }
  return manifest;
}

// The bytes of an artifact, which are those that the manifest recorded: what is hashed is what is loaded.
std::string read_artifact(const std::filesystem::path& bundle, const Field& artifacts, const std::string& name) {
  if (name.empty() || name.find_first_of("/\\") != std::string::npos || name[0] == '.') {
    bad_input("manifest.json names a file outside its folder: " + json_string(name));
  }
  const auto path = bundle / name;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) bad_input(path.string() + " is gone, but the manifest names it" + kRemake);
  std::string data = read_file(path);
  const std::string& wanted = artifacts.at(name).at("sha256").text();
  if (const std::string found = sha256(data); found != wanted) {
    bad_input(path.string() + " was changed after it was made: its SHA-256 is " + found.substr(0, 16) +
              "..., the manifest has " + wanted.substr(0, 16) + "..." + kRemake);
  }
  return data;
}

// ---- Tensors ----------------------------------------------------------------------------------------------------------

std::size_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::uint8:
      return 1;
    case DType::float16:
      return 2;
    case DType::float32:
      return 4;
    case DType::int64:
      return 8;
  }
  return 0;
}

// Elements of an image. Raises Error for a shape that no memory holds.
std::size_t elements(const TensorSpec& spec) {
  std::int64_t count = 1;
  for (const std::int64_t size : spec.shape) {
    if (size < 1 || count > kMaxElements / size) {
      bad_input("the model's " + spec.name + " has a shape that cannot be: " + std::to_string(size) + " in it");
    }
    count *= size;
  }
  return static_cast<std::size_t>(count);
}

std::size_t image_bytes(const TensorSpec& spec) { return elements(spec) * bytes_of(spec.dtype); }

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[batch";
  for (const std::int64_t size : shape) text += ", " + std::to_string(size);
  return text + "]";
}

float widened(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16U;
  const std::uint32_t exponent = half >> 10U & 0x1FU;
  const std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0) {  // zero and subnormal numbers: multiples of 2^-24
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  const std::uint32_t bits = sign | (exponent == 0x1F ? 0xFFU : exponent + 112) << 23U | mantissa << 13U;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounded to the nearest, ties to even. Normalized pixels are far from half's largest number.
std::uint16_t narrowed(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000U : 0U);
  const float size = std::fabs(value);
  if (size >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7C00U);
  int exponent = -13;  // of subnormal numbers, whose steps stay 2^-24
  if (size >= 6.103515625e-05F) std::frexp(size, &exponent);
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(size, 11 - exponent)));
  return static_cast<std::uint16_t>(sign | ((static_cast<std::uint32_t>(exponent + 13) << 10U) + steps));  // carries are right
}

// ---- Runtimes: an Engine is a loaded file, a Lane runs one batch size of it ---------------------------------------------

#if defined(RESNET_DEPLOY_ONNXRUNTIME)

DType dtype_of(ONNXTensorElementDataType type, const std::string& name) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return DType::uint8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return DType::int64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return DType::float16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return DType::float32;
    default:
      bad_input("the model's " + name + " is of a type that this program has not: export it without --native-io");
  }
}

ONNXTensorElementDataType element_type(DType dtype) {
  switch (dtype) {
    case DType::uint8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case DType::int64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DType::float16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::float32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

TensorSpec spec_of(Ort::AllocatedStringPtr name, const Ort::TypeInfo& type) {
  const auto info = type.GetTensorTypeAndShapeInfo();
  TensorSpec spec{name.get(), dtype_of(info.GetElementType(), name.get()), info.GetShape()};
  if (spec.shape.empty()) bad_input("the model's " + spec.name + " has no batch dimension");
  spec.shape.erase(spec.shape.begin());
  return spec;
}

class Engine {
 public:
  Engine(const std::string& data, const std::string& path, const Options& options) {
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
      bad_machine("this program was compiled for ONNX Runtime 1." + std::to_string(ORT_API_VERSION) + ", found " +
                  OrtGetApiBase()->GetVersionString() + ". Install that or a newer one");
    }
    runtime = std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString();
    try {
      env_ = Ort::Env(ORT_LOGGING_LEVEL_FATAL, "resnet_deploy");  // what matters arrives as exceptions
      Ort::SessionOptions settings;
      if (options.threads > 0) settings.SetIntraOpNumThreads(options.threads);
      session_ = Ort::Session(env_, data.data(), data.size(), settings);
      const Ort::AllocatorWithDefaultOptions allocator;
      if (session_.GetInputCount() != 1) bad_input(path + " has more than one input; a residual network has one");
      input = spec_of(session_.GetInputNameAllocated(0, allocator), session_.GetInputTypeInfo(0));
      for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
        outputs.push_back(spec_of(session_.GetOutputNameAllocated(i, allocator), session_.GetOutputTypeInfo(i)));
      }
    } catch (const Ort::Exception& error) {
      bad_input("ONNX Runtime cannot load " + path + ": " + error.what());
    }
  }

  std::string runtime;
  TensorSpec input;
  std::vector<TensorSpec> outputs;

 private:
  friend class Lane;
  Ort::Env env_{nullptr};
  mutable Ort::Session session_{nullptr};  // running it changes nothing that threads could see
};

class Lane {
 public:
  Lane(const Engine& engine, std::int64_t batch) : engine_(&engine) {
    const auto images = static_cast<std::size_t>(batch);
    input_shape_ = with_batch(engine.input, batch);
    input_bytes_ = images * image_bytes(engine.input);
    input_.resize(engine.input.dtype == DType::uint8 ? 0 : input_bytes_);
    for (const TensorSpec& spec : engine.outputs) {
      std::vector<std::byte>& memory = memory_.emplace_back(images * image_bytes(spec));
      const auto shape = with_batch(spec, batch);
      outputs_.push_back(
          Ort::Value::CreateTensor(cpu_, memory.data(), memory.size(), shape.data(), shape.size(), element_type(spec.dtype)));
      names_.push_back(spec.name.c_str());
    }
  }

  // Where normalized images are put; pixels are read where they are.
  std::byte* input() { return input_.data(); }
  [[nodiscard]] const std::byte* output(std::size_t index) const { return memory_[index].data(); }

  void run(const void* data) {
    try {
      // ONNX Runtime only reads its inputs.
      const Ort::Value value = Ort::Value::CreateTensor(cpu_, const_cast<void*>(data), input_bytes_, input_shape_.data(),
                                                        input_shape_.size(), element_type(engine_->input.dtype));
      const char* name = engine_->input.name.c_str();
      engine_->session_.Run(Ort::RunOptions{nullptr}, &name, &value, 1, names_.data(), outputs_.data(), outputs_.size());
    } catch (const Ort::Exception& error) {
      bad_machine(std::string("ONNX Runtime failed while it ran: ") + error.what());
    }
  }

 private:
  static std::vector<std::int64_t> with_batch(const TensorSpec& spec, std::int64_t batch) {
    std::vector<std::int64_t> shape = spec.shape;
    shape.insert(shape.begin(), batch);
    return shape;
  }

  const Engine* engine_;
  Ort::MemoryInfo cpu_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<std::int64_t> input_shape_;
  std::size_t input_bytes_ = 0;
  std::vector<std::byte> input_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<Ort::Value> outputs_;
  std::vector<const char*> names_;
};

// The graph that ONNX Runtime's CPU kernels run: INT8 has one of its own.
std::string graph_of(const std::string& precision) {
  return precision == "int8" ? "model.int8-cpu.onnx" : "model." + precision + ".onnx";
}

std::unique_ptr<Engine> load(const std::filesystem::path& bundle, const Field& artifacts, const std::string& precision,
                             const Options& options, std::string& name) {
  name = graph_of(precision);
  if (!artifacts.find(name)) {
    bad_input(bundle.string() + " has no " + name + "; make it with `resnet-deploy export ... --precision " + precision + "`");
  }
  return std::make_unique<Engine>(read_artifact(bundle, artifacts, name), (bundle / name).string(), options);
}

// Whether an artifact is what this program runs.
bool runs(const std::string& name, const Field& entry) {
  const auto precision = entry.find("precision");
  return precision && name == graph_of(precision->text());
}

#else

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const bool memory = status == cudaErrorMemoryAllocation;
  bad_machine(std::string(what) + ": " + cudaGetErrorString(status) + (memory ? ". Use a smaller batch" : ""));
}

// Frees a CUDA handle with the function that does.
template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* handle) const noexcept {
    static_cast<void>(Free(handle));
  }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Freed<cudaStreamDestroy>>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Freed<cudaGraphDestroy>>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Freed<cudaGraphExecDestroy>>;
using DeviceMemory = std::unique_ptr<void, Freed<cudaFree>>;
using PinnedMemory = std::unique_ptr<void, Freed<cudaFreeHost>>;

DeviceMemory device_memory(std::size_t size) {
  void* found = nullptr;
  check(cudaMalloc(&found, size), "cannot allocate device memory");
  return DeviceMemory(found);
}

PinnedMemory pinned_memory(std::size_t size) {
  void* found = nullptr;
  check(cudaHostAlloc(&found, size, cudaHostAllocDefault), "cannot allocate pinned memory");
  return PinnedMemory(found);
}

// TensorRT's reasons are log messages, and the first is the real one.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::scoped_lock lock(mutex_);
      if (reason_.empty()) reason_ = message;
    } catch (...) {  // NOLINT(bugprone-empty-catch): out of memory, and a reason less
    }
  }

  // Without the place in TensorRT's sources.
  [[nodiscard]] std::string reason() const {
    const std::scoped_lock lock(mutex_);
    return reason_.empty() ? "it gave no reason" : reason_.substr(0, reason_.find(" In "));
  }

  // What was only a warning by its outcome is no reason for what fails later.
  void clear() {
    const std::scoped_lock lock(mutex_);
    reason_.clear();
  }

  [[nodiscard]] bool mentions(std::string_view part) const {
    const std::scoped_lock lock(mutex_);
    return reason_.find(part) != std::string::npos;
  }

 private:
  mutable std::mutex mutex_;
  std::string reason_;
};

DType dtype_of(nvinfer1::DataType type, const std::string& name) {
  switch (type) {
    case nvinfer1::DataType::kUINT8:
      return DType::uint8;
    case nvinfer1::DataType::kINT64:
      return DType::int64;
    case nvinfer1::DataType::kHALF:
      return DType::float16;
    case nvinfer1::DataType::kFLOAT:
      return DType::float32;
    default:
      bad_input("the plan's " + name + " is of a type that this program has not: export it without --native-io");
  }
}

// Major, minor, patch and build of the library that is loaded.
std::string runtime_version() {
  std::string text;
  for (const std::int32_t part :
       {getInferLibMajorVersion(), getInferLibMinorVersion(), getInferLibPatchVersion(), getInferLibBuildVersion()}) {
    text += (text.empty() ? "" : ".") + std::to_string(part);
  }
  return text;
}

// The leading numbers of a version: 10.13.3.9.post1 -> 10, 13, 3, 9.
std::vector<int> numbers(const std::string& version) {
  std::vector<int> found;
  std::istringstream parts(version);
  for (std::string part; std::getline(parts, part, '.');) {
    int number = 0;
    const char* end = part.data() + part.size();
    const auto [last, error] = std::from_chars(part.data(), end, number);
    if (error != std::errc() || last != end) break;
    found.push_back(number);
  }
  return found;
}

// This machine, in the words of a plan's origin.
struct Machine {
  std::string flavour = RESNET_DEPLOY_FLAVOUR;
  std::string version = runtime_version();
  std::string platform;
  std::string gpu;
  std::string capability;  // such as 8.6
};

Machine without_gpu() {
  Machine found;
  utsname system{};
  if (uname(&system) != 0) bad_machine("cannot tell which system this is");
  found.platform = std::string(static_cast<const char*>(system.sysname)) + "-" + static_cast<const char*>(system.machine);
  return found;
}

void find_gpu(Machine& machine, int device) {
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    bad_machine(std::string("no NVIDIA GPU that can be used (") + cudaGetErrorString(status) +
                "). Install or update the driver, or use the machine of the plan");
  }
  if (device < 0 || device >= devices) {
    bad_input("there is no GPU " + std::to_string(device) + ": they are 0 to " + std::to_string(devices - 1));
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cannot read the GPU's properties");
  machine.gpu = static_cast<const char*>(properties.name);
  machine.capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
}

// Where a plan was built and for what: resnet_deploy/engine/plan.py writes it, and has the same rules.
class Origin {
 public:
  explicit Origin(const Field& entry)
      : flavour(entry.at("flavour").text()),
        version_(entry.at("version").text()),
        platform_(entry.at("platform").text()),
        gpu_(entry.at("gpu").text_or_null()),
        capability_(entry.at("compute_capability").text_or_null()),
        hardware_(entry.at("hardware_compatible").text_or_null()),
        version_compatible(entry.at("version_compatible").truth()) {
    for (const Field& target : entry.at("targets").list()) targets_.push_back(target.text());
  }

  [[nodiscard]] bool version_fits(const std::string& found) const {
    const std::vector<int> built = numbers(version_);
    const std::vector<int> here = numbers(found);
    if (built == here) return true;
    if (flavour != "tensorrt" || !version_compatible || built.empty() || here.empty() || here < built) return false;
    return here[0] == built[0] || (built[0] == 10 && here[0] == 11);
  }

  [[nodiscard]] bool platform_fits(const std::string& found) const { return platform_ == found; }

  [[nodiscard]] bool gpu_fits(const Machine& machine) const {
    if (!targets_.empty())
      return std::find(targets_.begin(), targets_.end(), "sm" + digits(machine.capability)) != targets_.end();
    if (hardware_ == "ampere-plus") return numbers(machine.capability) >= std::vector<int>{8, 0};
    if (hardware_ == "same-compute-capability" || flavour != "tensorrt") return capability_ == machine.capability;
    return gpu_ == machine.gpu;
  }

  [[nodiscard]] std::string text() const {
    std::string where;
    for (const std::string& target : targets_) where += (where.empty() ? "" : ", ") + target;
    if (targets_.empty()) where = gpu_ + " (sm" + digits(capability_) + ")";
    return flavour + " " + version_ + " for " + where + " on " + platform_;
  }

  static std::string digits(std::string capability) {
    capability.erase(std::remove(capability.begin(), capability.end(), '.'), capability.end());
    return capability;
  }

  std::string flavour;

 private:
  std::string version_;
  std::string platform_;
  std::string gpu_;
  std::string capability_;
  std::string hardware_;
  std::vector<std::string> targets_;

 public:
  bool version_compatible;
};

// What of a machine is not what a plan needs; empty where it runs.
std::string misfit(const Origin& origin, const Machine& machine) {
  std::string wrong;
  const auto add = [&wrong](const std::string& what) { wrong += (wrong.empty() ? "" : ", ") + what; };
  if (!origin.version_fits(machine.version)) add(machine.flavour + " " + machine.version);
  if (!origin.platform_fits(machine.platform)) add(machine.platform);
  if (!machine.gpu.empty() && !origin.gpu_fits(machine)) add(machine.gpu + " (sm" + Origin::digits(machine.capability) + ")");
  return wrong;
}

using Profile = std::array<std::int64_t, 3>;  // batch sizes: smallest, the one that kernels are chosen for, largest

class Engine {
 public:
  Engine(const std::string& data, const std::string& path, const Options& options, bool version_compatible)
      : device(options.device), captures(options.cuda_graph && std::string_view(RESNET_DEPLOY_FLAVOUR) == "tensorrt") {
    runtime = std::string(RESNET_DEPLOY_FLAVOUR) + " " + runtime_version();
    if (data.empty()) bad_input(path + " is empty; build it again");
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (!runtime_) bad_machine(runtime + " does not start: " + log_.reason());
    runtime_->setEngineHostCodeAllowed(version_compatible);  // such plans bring their own runtime
    engine_.reset(runtime_->deserializeCudaEngine(data.data(), data.size()));
    if (!engine_) refused(path);
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) read(engine_->getIOTensorName(i));
    if (input.name.empty()) bad_input(path + " has no input; a residual network has one");
    for (std::int32_t i = 0; i < engine_->getNbOptimizationProfiles(); ++i) profiles_.push_back(profile(i));
    log_.clear();
  }

  [[nodiscard]] std::int64_t max_batch() const {
    std::int64_t most = 0;
    for (const Profile& found : profiles_) most = std::max(most, found[2]);
    return most;
  }

  std::string runtime;
  TensorSpec input;
  std::vector<TensorSpec> outputs;
  int device;
  bool captures;  // TensorRT-RTX settles on its kernels while it runs: a graph would keep the first ones

 private:
  friend class Lane;

  [[noreturn]] void refused(const std::string& path) const {
    const std::string message = runtime + " cannot load " + path + ": " + log_.reason();
    if (log_.mentions("cudaError 35") || log_.mentions("cudaError 100"))
      bad_machine(message + ". It needs an NVIDIA GPU and its driver");
    if (log_.mentions("OutOfMemory") || log_.mentions("out of memory")) bad_machine(message);
    bad_input(message + ". Build it again with `resnet-deploy build`");
  }

  void read(const char* name) {
    const nvinfer1::Dims dims = engine_->getTensorShape(name);
    TensorSpec spec{name, dtype_of(engine_->getTensorDataType(name), name), {}};
    for (std::int32_t i = 1; i < dims.nbDims; ++i) spec.shape.push_back(dims.d[i]);
    if (engine_->getTensorIOMode(name) != nvinfer1::TensorIOMode::kINPUT) {
      outputs.push_back(std::move(spec));
    } else if (input.name.empty()) {
      input = std::move(spec);
    } else {
      bad_input("the plan has more than one input; a residual network has one");
    }
  }

  [[nodiscard]] Profile profile(std::int32_t index) const {
    const auto size = [&](nvinfer1::OptProfileSelector which) {
      const nvinfer1::Dims dims = engine_->getProfileShape(input.name.c_str(), index, which);
      return dims.nbDims > 0 ? std::int64_t{dims.d[0]} : std::int64_t{0};
    };
    using Selector = nvinfer1::OptProfileSelector;
    return {size(Selector::kMIN), size(Selector::kOPT), size(Selector::kMAX)};
  }

  // Of the profiles that hold a batch, the one tuned nearest to it, and the narrower of equals.
  [[nodiscard]] std::int32_t best_profile(std::int64_t batch) const {
    std::int32_t best = -1;
    std::pair<std::int64_t, std::int64_t> least;
    for (std::size_t i = 0; i < profiles_.size(); ++i) {
      const auto [smallest, tuned, largest] = profiles_[i];
      const std::pair<std::int64_t, std::int64_t> distance(std::abs(tuned - batch), largest - smallest);
      if (batch < smallest || batch > largest || (best >= 0 && least <= distance)) continue;
      best = static_cast<std::int32_t>(i);
      least = distance;
    }
    if (best < 0)
      bad_input("no profile of the plan holds batch " + std::to_string(batch) +
                "; build it with `resnet-deploy build --batch`");
    return best;
  }

  [[nodiscard]] std::unique_ptr<nvinfer1::IExecutionContext> execution_context() const {
    const std::scoped_lock lock(mutex_);
    std::unique_ptr<nvinfer1::IExecutionContext> found(engine_->createExecutionContext());
    if (!found) bad_machine(runtime + " cannot make a context: " + log_.reason());
    return found;
  }

  Log log_;  // outlives what writes to it
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<Profile> profiles_;
  mutable std::mutex mutex_;
};

class Lane {
 public:
  Lane(const Engine& engine, std::int64_t batch) : engine_(&engine) {
    check(cudaSetDevice(engine.device), "cannot use the GPU");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cannot make a stream");
    stream_.reset(stream);
    context_ = engine.execution_context();
    const std::int32_t profile = engine.best_profile(batch);
    require(context_->setOptimizationProfileAsync(profile, stream), "its profile");
    synchronize();
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(engine.input.shape.size()) + 1;
    dims.d[0] = batch;
    std::copy(engine.input.shape.begin(), engine.input.shape.end(), std::next(std::begin(dims.d)));
    require(context_->setInputShape(engine.input.name.c_str(), dims), "its input's shape");
    input_ = bind(engine.input, batch);
    for (const TensorSpec& spec : engine.outputs) outputs_.push_back(bind(spec, batch));
    std::memset(input_.host.get(), 0, input_.size);
    enqueue();  // the first run may still allocate and choose: the next are the graph
    synchronize();
    if (engine.captures) capture();
  }

  [[nodiscard]] std::byte* input() const { return static_cast<std::byte*>(input_.host.get()); }
  [[nodiscard]] const std::byte* output(std::size_t index) const {
    return static_cast<const std::byte*>(outputs_[index].host.get());
  }

  void run(const void* data) {
    check(cudaSetDevice(engine_->device), "cannot use the GPU");  // the thread may be a new one
    if (data != input_.host.get()) std::memcpy(input_.host.get(), data, input_.size);
    if (graph_) {
      check(cudaGraphLaunch(graph_.get(), stream_.get()), "cannot start the CUDA graph");
    } else {
      enqueue();
    }
    synchronize();
  }

 private:
  struct Buffer {
    std::size_t size = 0;
    PinnedMemory host;
    DeviceMemory device;
  };

  Buffer bind(const TensorSpec& spec, std::int64_t batch) {
    Buffer buffer;
    buffer.size = static_cast<std::size_t>(batch) * image_bytes(spec);
    buffer.host = pinned_memory(buffer.size);
    buffer.device = device_memory(buffer.size);
    require(context_->setTensorAddress(spec.name.c_str(), buffer.device.get()), "the address of a tensor");
    return buffer;
  }

  // Host to host: pixels up, inference, answers down.
  void enqueue() {
    cudaStream_t stream = stream_.get();
    check(cudaMemcpyAsync(input_.device.get(), input_.host.get(), input_.size, cudaMemcpyHostToDevice, stream),
          "cannot copy the images");
    require(context_->enqueueV3(stream), "to start the inference");
    for (const Buffer& output : outputs_) {
      check(cudaMemcpyAsync(output.host.get(), output.device.get(), output.size, cudaMemcpyDeviceToHost, stream),
            "cannot copy the answers");
    }
  }

  void capture() {
    check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "cannot capture a CUDA graph");
    cudaGraph_t captured = nullptr;
    try {
      enqueue();
    } catch (...) {
      cudaStreamEndCapture(stream_.get(), &captured);
      const Graph freed(captured);
      throw;
    }
    check(cudaStreamEndCapture(stream_.get(), &captured), "cannot capture a CUDA graph");
    const Graph graph(captured);
    cudaGraphExec_t ready = nullptr;
    check(cudaGraphInstantiateWithFlags(&ready, captured, 0), "cannot make a CUDA graph");
    graph_.reset(ready);
  }

  void require(bool done, const char* what) const {
    if (!done) bad_machine(engine_->runtime + " refused " + what + ": " + engine_->log_.reason());
  }

  void synchronize() { check(cudaStreamSynchronize(stream_.get()), "the inference failed"); }

  const Engine* engine_;
  Stream stream_;
  Buffer input_;
  std::vector<Buffer> outputs_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  GraphExec graph_;
};

// Whether an artifact is what this program runs.
bool runs(const std::string&, const Field& entry) {
  return entry.at("kind").text() == "plan" && entry.at("origin").at("flavour").text() == RESNET_DEPLOY_FLAVOUR;
}

// The plan that runs here, of those that were built from the bundle's graph as it is now.
std::unique_ptr<Engine> load(const std::filesystem::path& bundle, const Field& artifacts, const std::string& precision,
                             const Options& options, std::string& name) {
  const auto graph = artifacts.find("model." + precision + ".onnx");
  std::vector<std::pair<std::string, Origin>> plans;
  for (const std::string& each : artifacts.names()) {
    const Field entry = artifacts.at(each);
    if (!runs(each, entry) || entry.at("precision").text() != precision) continue;
    if (graph && entry.at("made_from").text() != graph->at("sha256").text()) continue;
    plans.emplace_back(each, entry.at("origin"));
  }
  if (plans.empty()) {
    bad_input(bundle.string() + " has no " + precision +
              " plan for " RESNET_DEPLOY_FLAVOUR
              "; make one with `resnet-deploy build DIR "
              "--precision " +
              precision + " --flavour " RESNET_DEPLOY_FLAVOUR "`");
  }
  name = plans.front().first;
  std::string data = read_artifact(bundle, artifacts, name);  // that a file was changed is said before what the machine lacks
  Machine machine = without_gpu();
  const auto fitting = [&] {
    return std::find_if(plans.begin(), plans.end(), [&](const auto& plan) { return misfit(plan.second, machine).empty(); });
  };
  if (fitting() != plans.end()) find_gpu(machine, options.device);
  const auto found = fitting();
  if (found == plans.end()) {
    const Origin& origin = plans.front().second;
    bad_machine("the plan was built with " + origin.text() + "; found " + misfit(origin, machine) +
                ". Build it again here with `resnet-deploy build DIR --flavour " RESNET_DEPLOY_FLAVOUR
                "`, or use what it was built with");
  }
  if (std::exchange(name, found->first) != found->first) data = read_artifact(bundle, artifacts, name);
  check(cudaSetDevice(options.device), "cannot use the GPU");
  return std::make_unique<Engine>(data, (bundle / name).string(), options, found->second.version_compatible);
}

#endif

// ---- The model --------------------------------------------------------------------------------------------------------

// Normalization of each channel's 256 values, in the order of operations that resnet_deploy/data/preprocessing.py has.
using Table = std::array<std::array<float, 256>, 3>;

Table normalization(const Field& preprocessing) {
  const auto mean = preprocessing.at("mean").list();
  const auto deviation = preprocessing.at("std").list();
  if (mean.size() != 3 || deviation.size() != 3)
    bad_input("manifest.json: mean and std are of three channels" + std::string(kRemake));
  Table table{};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const auto shift = static_cast<float>(mean[channel].number());
    const auto scale = static_cast<float>(deviation[channel].number());
    for (std::size_t value = 0; value < 256; ++value) {
      table.at(channel).at(value) = (static_cast<float>(value) / 255.0F - shift) / scale;
    }
  }
  return table;
}

// The only precision that there is a file of, or fp32.
std::string default_precision(const Field& artifacts) {
  std::vector<std::string> found;
  for (const std::string& name : artifacts.names()) {
    const Field entry = artifacts.at(name);
    if (runs(name, entry)) found.push_back(entry.at("precision").text());
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found.size() == 1 ? found.front() : "fp32";
}

}  // namespace

class Model::Impl {
 public:
  Impl(const std::filesystem::path& bundle, const Options& options) {
    if (options.threads < 0) bad_input("threads are 0 (the physical cores) or more; found " + std::to_string(options.threads));
    const Json manifest = read_manifest(bundle);
    const Field root(manifest, "");
    const Field model = root.at("model");
    const Field artifacts = root.at("artifacts");
    const std::string precision = options.precision.empty() ? default_precision(artifacts) : options.precision;
    constexpr std::array<std::string_view, 5> known = {"fp32", "fp16", "bf16", "int8", "fp8"};
    if (std::find(known.begin(), known.end(), precision) == known.end()) {
      bad_input("unknown precision " + json_string(precision) + "; choose fp32, fp16, bf16, int8 or fp8");
    }
    engine = load(bundle, artifacts, precision, options, description.artifact);
    description.architecture = model.at("architecture").text();
    description.runtime = engine->runtime;
    description.head = model.at("head").at("kind").text();
    description.input = engine->input;
    description.outputs = engine->outputs;
    description.max_batch = model.at("request").at("max_batch").integer();
#if defined(RESNET_DEPLOY_TENSORRT)
    description.max_batch = engine->max_batch();
#endif
    if (const Field names = model.at("class_names"); !names.null()) {
      for (const Field& name : names.list()) description.labels.push_back(name.text());
    }
    read_input(model);
    check_outputs();
  }

  Description description;
  std::unique_ptr<Engine> engine;
  std::optional<Table> table;  // where pixels are normalized here

 private:
  void read_input(const Field& model) {
    std::vector<std::int64_t> recorded;
    for (const Field& size : model.at("input").at("shape").list()) recorded.push_back(recorded.empty() ? 0 : size.integer());
    recorded.erase(recorded.begin(), recorded.begin() + (recorded.empty() ? 0 : 1));
    const bool pixels = model.at("input_format").text() == "uint8";
    const std::vector<std::int64_t>& shape = engine->input.shape;
    const bool typed = pixels ? engine->input.dtype == DType::uint8
                              : engine->input.dtype == DType::float32 || engine->input.dtype == DType::float16;
    if (shape != recorded || shape.size() != 3 || shape[pixels ? 2 : 0] != 3 || !typed) {
      bad_input(description.artifact + " takes " + shape_text(shape) + ", the manifest says " + shape_text(recorded) + kRemake);
    }
    description.height = shape[pixels ? 0 : 1];
    description.width = shape[pixels ? 1 : 2];
    static_cast<void>(elements(engine->input));
    if (!pixels) table = normalization(model.at("preprocessing"));
  }

  void check_outputs() const {
    for (const TensorSpec& output : engine->outputs) {
      static_cast<void>(elements(output));
      if (output.dtype == DType::uint8) bad_input("the model's " + output.name + " is uint8; expected numbers");
    }
  }
};

class Context::Impl {
 public:
  Impl(std::shared_ptr<const Model::Impl> model, std::int64_t batch)
      : model_(std::move(model)), batch_(batch), lane_(*model_->engine, batch) {
    const std::vector<TensorSpec>& specs = model_->description.outputs;
    for (std::size_t i = 0; i < specs.size(); ++i) {
      Output output;
      output.name = specs[i].name;
      output.shape = specs[i].shape;
      output.shape.insert(output.shape.begin(), batch);
      output.size = static_cast<std::size_t>(batch) * elements(specs[i]);
      if (specs[i].dtype == DType::int64) output.indices = reinterpret_cast<const std::int64_t*>(lane_.output(i));
      if (specs[i].dtype == DType::float32) output.values = reinterpret_cast<const float*>(lane_.output(i));
      std::vector<float>& wide = widened_.emplace_back(specs[i].dtype == DType::float16 ? output.size : 0);
      if (specs[i].dtype == DType::float16) output.values = wide.data();
      outputs_.push_back(std::move(output));
    }
  }

  const std::vector<Output>& infer(const std::uint8_t* pixels, std::size_t size) {
    const Description& described = model_->description;
    const auto wanted = static_cast<std::size_t>(batch_ * described.height * described.width * 3);
    if (pixels == nullptr || size != wanted) {
      bad_input("a batch of " + std::to_string(batch_) + " images of " + std::to_string(described.width) + "x" +
                std::to_string(described.height) + " RGB pixels has " + std::to_string(wanted) + " bytes; found " +
                std::to_string(size));
    }
    ran_ = false;
    if (!model_->table) {
      lane_.run(pixels);
    } else {
      normalize(pixels);
      lane_.run(lane_.input());
    }
    for (std::size_t i = 0; i < widened_.size(); ++i) {
      const std::byte* source = lane_.output(i);
      for (float& value : widened_[i]) {
        std::uint16_t half = 0;
        std::memcpy(&half, source, sizeof half);
        source += sizeof half;
        value = widened(half);
      }
    }
    ran_ = true;
    return outputs_;
  }

  [[nodiscard]] std::vector<Class> top(std::int64_t image, std::size_t count) const {
    if (!ran_) bad_input("there is no answer yet: call infer first");
    if (image < 0 || image >= batch_)
      bad_input("there is no image " + std::to_string(image) + " in a batch of " + std::to_string(batch_));
    const std::string& head = model_->description.head;
    if (head == "topk") return ranked(image, count);
    if (head != "logits" && head != "probabilities") bad_input("the head " + head + " names no class");
    const Output& output = outputs_.front();
    const std::size_t classes = output.size / static_cast<std::size_t>(batch_);
    const float* values = output.values + static_cast<std::size_t>(image) * classes;
    if (!std::all_of(values, values + classes, [](float value) { return std::isfinite(value); })) {
      bad_machine("the answer has NaN or Inf: the model cannot be trusted with this image, or in this precision");
    }
    std::vector<std::size_t> order(classes);
    std::iota(order.begin(), order.end(), std::size_t{0});
    const std::size_t kept = std::min(count, classes);
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(kept);
    std::partial_sort(order.begin(), end, order.end(), [values](std::size_t a, std::size_t b) {
      return values[a] != values[b] ? values[a] > values[b] : a < b;
    });
    std::vector<Class> found;
    for (auto each = order.begin(); each != end; ++each)
      found.push_back(named(static_cast<std::int64_t>(*each), values[*each]));
    return found;
  }

  [[nodiscard]] std::int64_t batch() const noexcept { return batch_; }

 private:
  void normalize(const std::uint8_t* pixels) {
    const Description& described = model_->description;
    const auto area = static_cast<std::size_t>(described.height * described.width);
    const bool half = described.input.dtype == DType::float16;
    for (std::int64_t image = 0; image < batch_; ++image) {
      for (std::size_t channel = 0; channel < 3; ++channel) {
        const std::array<float, 256>& values = (*model_->table)[channel];
        const std::size_t plane = (static_cast<std::size_t>(image) * 3 + channel) * area;
        const std::uint8_t* source = pixels + static_cast<std::size_t>(image) * area * 3 + channel;
        if (half) {
          auto* target = reinterpret_cast<std::uint16_t*>(lane_.input()) + plane;
          for (std::size_t i = 0; i < area; ++i) target[i] = narrowed(values[source[3 * i]]);
        } else {
          auto* target = reinterpret_cast<float*>(lane_.input()) + plane;
          for (std::size_t i = 0; i < area; ++i) target[i] = values[source[3 * i]];
        }
      }
    }
  }

  // What the graph's own top-k answered.
  [[nodiscard]] std::vector<Class> ranked(std::int64_t image, std::size_t count) const {
    const auto named_output = [this](bool indices) {
      return std::find_if(outputs_.begin(), outputs_.end(),
                          [indices](const Output& output) { return (output.indices != nullptr) == indices; });
    };
    const auto indices = named_output(true);
    const auto values = named_output(false);
    if (indices == outputs_.end() || values == outputs_.end() || indices->size != values->size) {
      bad_input("the head topk has values and indices" + std::string(kRemake));
    }
    const std::size_t k = indices->size / static_cast<std::size_t>(batch_);
    std::vector<Class> found;
    for (std::size_t i = 0; i < std::min(count, k); ++i) {
      const std::size_t at = static_cast<std::size_t>(image) * k + i;
      found.push_back(named(indices->indices[at], values->values[at]));
    }
    return found;
  }

  [[nodiscard]] Class named(std::int64_t index, float value) const {
    const std::vector<std::string>& labels = model_->description.labels;
    const bool known = index >= 0 && static_cast<std::size_t>(index) < labels.size();
    return {index, value, known ? labels[static_cast<std::size_t>(index)] : ""};
  }

  std::shared_ptr<const Model::Impl> model_;
  std::int64_t batch_;
  Lane lane_;
  std::vector<Output> outputs_;
  std::vector<std::vector<float>> widened_;
  bool ran_ = false;
};

Context::Context(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&&) noexcept = default;
Context::~Context() = default;

const std::vector<Output>& Context::infer(const std::uint8_t* pixels, std::size_t size) { return impl_->infer(pixels, size); }
std::vector<Class> Context::top(std::int64_t image, std::size_t count) const { return impl_->top(image, count); }
std::int64_t Context::batch() const noexcept { return impl_->batch(); }

Model::Model(const std::filesystem::path& bundle, const Options& options) try
    : impl_(std::make_shared<const Impl>(bundle, options)) {
} catch (const std::bad_alloc&) {
  bad_machine("out of memory while loading " + bundle.string());
}

const Description& Model::description() const noexcept { return impl_->description; }

Context Model::context(std::int64_t batch) const try {
  const std::int64_t most = impl_->description.max_batch;
  if (batch < 1 || batch > most) {
    bad_input("a batch is 1 to " + std::to_string(most) + " images, which is what was proven; found " + std::to_string(batch));
  }
  return Context(std::make_unique<Context::Impl>(impl_, batch));
} catch (const std::bad_alloc&) {
  bad_machine("out of memory: use a smaller batch than " + std::to_string(batch));
}

}  // namespace resnet_deploy
