// JSON (RFC 8259), as Python's json module writes it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace resnet_deploy::internal {

// Numbers stay text: nothing is lost of one that no field of ours needs, and messages show the very digits.
struct Json {
  enum class Kind { null, boolean, number, string, array, object };
  Kind kind = Kind::null;
  bool truth = false;
  std::string text;               // of a number, or a string in UTF-8 (surrogates that stand alone included, as in Python)
  std::vector<std::string> keys;  // of an object, beside its items
  std::vector<Json> items;
};

// Reads a document. Throws Error with the place, as in "expected a value at byte 3"; a key that stands twice is one.
Json parse_json(std::string_view text);

}  // namespace resnet_deploy::internal
