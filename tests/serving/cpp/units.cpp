// The library's insides, line by line: `json HEX`, `sha256 HEX`, `text HEX`, `half_to_float BITS`, `float_to_half HEX`,
// `elements BATCH SIZE...`, `engine PATH`. Each answers with a line: ok and the result, or the exit code and the message.
#include <algorithm>
#include <cstring>
#include <iostream>
#include <iterator>
#include <numeric>
#include <sstream>
#include <string>
#include <utility>

#include "resnet_deploy.h"
#include "src/bundle.h"
#include "src/json.h"
#include "src/runtime.h"
#include "src/sha256.h"
#include "src/tensors.h"

namespace {

using namespace resnet_deploy::internal;

std::string bytes(const std::string& hex) {
  std::string found;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    found.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return found;
}

// Python's json.dumps(value, sort_keys=True).
void canonical(const Json& value, std::string& out) {
  switch (value.kind) {
    case Json::Kind::null:
      out += "null";
      break;
    case Json::Kind::boolean:
      out += value.truth ? "true" : "false";
      break;
    case Json::Kind::number:
      out += value.text;
      break;
    case Json::Kind::string:
      out += resnet_deploy::json_string(value.text);
      break;
    case Json::Kind::array:
      for (std::size_t i = 0; i < value.items.size(); ++i) canonical(value.items[i], out += i == 0 ? "[" : ", ");
      out += value.items.empty() ? "[]" : "]";
      break;
    case Json::Kind::object: {
      std::vector<std::size_t> order(value.keys.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return value.keys[a] < value.keys[b]; });
      out += '{';
      bool first = true;
      for (const std::size_t i : order) {
        out += std::exchange(first, false) ? "" : ", ";
        canonical(value.items[i], (out += resnet_deploy::json_string(value.keys[i])) += ": ");
      }
      out += '}';
    }
  }
}

std::string answer(const std::string& what, const std::string& given) {
  if (what == "json") {
    std::string text;
    canonical(parse_json(bytes(given)), text);
    return text;
  }
  if (what == "sha256") return sha256(bytes(given));
  if (what == "text") return resnet_deploy::json_string(bytes(given));
  if (what == "engine") return read_engine(read_file(given), given, resnet_deploy::Options{})->runtime;
  if (what == "elements") {
    std::istringstream sizes(given);
    std::int64_t batch = 0;
    sizes >> batch;
    const resnet_deploy::TensorSpec spec{"output", {}, {std::istream_iterator<std::int64_t>(sizes), {}}};
    return std::to_string(element_count(spec, batch));
  }
  float value = 0;
  if (what == "half_to_float") {
    value = half_to_float(static_cast<std::uint16_t>(std::stoi(given)));
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return std::to_string(bits);
  }
  const std::string data = bytes(given);
  std::memcpy(&value, data.data(), sizeof value);
  return std::to_string(float_to_half(value));
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const std::size_t space = line.find(' ');
    try {
      const std::string found = answer(line.substr(0, space), line.substr(space + 1));
      std::cout << "ok " << found << std::endl;
    } catch (const resnet_deploy::Error& error) {
      std::string message = error.what();
      std::replace(message.begin(), message.end(), '\n', ' ');
      std::cout << static_cast<int>(error.code()) << ' ' << message << std::endl;
    }
  }
}
