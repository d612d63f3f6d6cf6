#include "bundle.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <fstream>
#include <ios>
#include <system_error>

#include "errors.h"
#include "resnet_deploy.h"
#include "sha256.h"

namespace resnet_deploy::internal {
namespace {

constexpr std::int64_t kSchemaVersion = 2;
constexpr std::uintmax_t kMaxManifestBytes = std::uintmax_t{256} << 20U;

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

Json read_manifest(const std::filesystem::path& bundle) {
  const auto path = bundle / "manifest.json";
  std::error_code error;
  if (!std::filesystem::is_directory(bundle, error)) {
    throw_input_error("there is no bundle at " + bundle.string() + "; make one with `resnet-deploy cpp DIR -o PROJECT`");
  }
  const std::string text = read_file(path, kMaxManifestBytes);
  Json manifest;
  try {
    manifest = parse_json(text);
  } catch (const Error& reason) {
    throw_input_error(path.string() + " cannot be read as a manifest (" + reason.what() + ")" + kRemake);
  }
  const Field root(manifest, "");
  if (const std::int64_t version = root.at("schema_version").integer(); version != kSchemaVersion) {
    throw_input_error(path.string() + " has schema version " + std::to_string(version) + ", this program reads " +
                      std::to_string(kSchemaVersion) +
                      ". Generate the program again with the resnet-deploy that made the bundle");
  }
  if (!has_its_digest(text)) {
    throw_input_error(path.string() + " was changed by hand: its digest does not match" + kRemake);
  }
  return manifest;
}

}  // namespace

std::optional<Field> Field::find(std::string_view name) const {
  if (value_->kind != Json::Kind::object) fail("an object");
  const auto key = std::find(value_->keys.begin(), value_->keys.end(), name);
  if (key == value_->keys.end()) return std::nullopt;
  const auto index = static_cast<std::size_t>(key - value_->keys.begin());
  return Field(value_->items[index], path_.empty() ? std::string(name) : path_ + "." + std::string(name));
}

Field Field::at(std::string_view name) const {
  auto member = find(name);
  if (!member) throw_input_error("manifest.json has no " + (path_.empty() ? "" : path_ + ".") + std::string(name) + kRemake);
  return *std::move(member);
}

const std::string& Field::text() const {
  if (value_->kind != Json::Kind::string) fail("a string");
  return value_->text;
}

std::string Field::text_or_null() const { return null() ? "" : text(); }

bool Field::truth() const {
  if (value_->kind != Json::Kind::boolean) fail("true or false");
  return value_->truth;
}

std::int64_t Field::integer() const {
  std::int64_t number = 0;
  const char* end = value_->text.data() + value_->text.size();
  const auto [last, error] = std::from_chars(value_->text.data(), end, number);
  if (value_->kind != Json::Kind::number || error != std::errc() || last != end) fail("a whole number of 64 bits");
  return number;
}

double Field::number() const {
  if (value_->kind != Json::Kind::number) fail("a number");
  double number = 0;
  const char* end = value_->text.data() + value_->text.size();
  const auto [last, error] = std::from_chars(value_->text.data(), end, number);
  if (error != std::errc() || last != end) fail("a number within a double's range");
  return number;
}

std::vector<Field> Field::list() const {
  if (value_->kind != Json::Kind::array) fail("a list");
  std::vector<Field> items;
  items.reserve(value_->items.size());
  for (const Json& item : value_->items) items.emplace_back(item, path_ + "[" + std::to_string(items.size()) + "]");
  return items;
}

const std::vector<std::string>& Field::names() const {
  if (value_->kind != Json::Kind::object) fail("an object");
  return value_->keys;
}

void Field::fail(const char* expected) const {
  throw_input_error("manifest.json: " + (path_.empty() ? "the whole" : path_) + " is not " + expected + kRemake);
}

Bundle::Bundle(std::filesystem::path folder) : folder_(std::move(folder)), manifest_(read_manifest(folder_)) {}

std::string Bundle::read_artifact(const std::string& name) const {
  if (name.empty() || name.find_first_of("/\\") != std::string::npos || name[0] == '.') {
    throw_input_error("manifest.json names a file outside its folder: " + json_string(name));
  }
  const auto path = folder_ / name;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw_input_error(path.string() + " is gone, but the manifest names it" + kRemake);
  }
  std::string data = read_file(path);
  const std::string& recorded = artifacts().at(name).at("sha256").text();
  if (const std::string actual = sha256(data); actual != recorded) {
    throw_input_error(path.string() + " was changed after it was made: its SHA-256 is " + actual.substr(0, 16) +
                      "..., the manifest has " + recorded.substr(0, 16) + "..." + kRemake);
  }
  return data;
}

std::string read_file(const std::filesystem::path& path, std::uintmax_t most_bytes) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) throw_input_error(path.string() + " is not there, or not a file");
  const auto size = std::filesystem::file_size(path, error);
  if (error) throw_input_error("cannot read " + path.string() + ": " + error.message());
  if (size > most_bytes) {
    throw_input_error(path.string() + " has " + std::to_string(size) + " bytes; expected at most " +
                      std::to_string(most_bytes) + kRemake);
  }
  std::string data(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file) throw_input_error("cannot read " + path.string() + ": " + std::generic_category().message(errno));
  file.read(data.data(), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(file.gcount()) != size)
    throw_input_error(path.string() + " became shorter while it was read: try again when nothing writes it");
  return data;
}

}  // namespace resnet_deploy::internal
