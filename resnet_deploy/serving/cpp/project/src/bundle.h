// A bundle: its manifest and its files, checked before anything reads them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"

namespace resnet_deploy::internal {

// A value of the manifest with its place in it, for messages. It lives as long as the bundle that it is of.
class Field {
 public:
  Field(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  // A member of an object: nothing where it has none, or an Error.
  [[nodiscard]] std::optional<Field> find(std::string_view name) const;
  [[nodiscard]] Field at(std::string_view name) const;

  [[nodiscard]] bool null() const noexcept { return value_->kind == Json::Kind::null; }

  // The value, or an Error where it is of another type.
  [[nodiscard]] const std::string& text() const;
  [[nodiscard]] std::string text_or_null() const;  // empty of null
  [[nodiscard]] bool truth() const;
  [[nodiscard]] std::int64_t integer() const;
  [[nodiscard]] double number() const;
  [[nodiscard]] std::vector<Field> list() const;
  [[nodiscard]] const std::vector<std::string>& names() const;  // of an object

 private:
  [[noreturn]] void fail(const char* expected) const;

  const Json* value_;
  std::string path_;
};

class Bundle {
 public:
  // Reads the manifest: its schema version and its digest are checked.
  explicit Bundle(std::filesystem::path folder);

  [[nodiscard]] const std::filesystem::path& folder() const noexcept { return folder_; }
  [[nodiscard]] Field model() const { return Field(manifest_, "").at("model"); }
  [[nodiscard]] Field artifacts() const { return Field(manifest_, "").at("artifacts"); }

  // The bytes of an artifact, which are those that the manifest recorded: what is hashed is what is loaded.
  [[nodiscard]] std::string read_artifact(const std::string& name) const;

 private:
  std::filesystem::path folder_;
  Json manifest_;
};

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{1} << 40U;  // sparse files may claim more than a string can have
std::string read_file(const std::filesystem::path& path, std::uintmax_t most_bytes = kMaxFileBytes);

}  // namespace resnet_deploy::internal
