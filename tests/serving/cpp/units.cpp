// The library's insides, line by line: `json HEX`, `sha256 HEX`, `text HEX`, `widened BITS`, `narrowed HEX`, `engine PATH`.
// Each answers with a line: ok and the result, or the exit code and the message.
#include <iostream>

#include "resnet_deploy.cpp"  // NOLINT: what is tested is private to it

namespace {

std::string bytes(const std::string& hex) {
  std::string found;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    found.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return found;
}

// Python's json.dumps(value, sort_keys=True).
void canonical(const resnet_deploy::Json& value, std::string& out) {
  switch (value.kind) {
    case resnet_deploy::Json::Kind::null:
      out += "null";
      break;
    case resnet_deploy::Json::Kind::boolean:
      out += value.truth ? "true" : "false";
      break;
    case resnet_deploy::Json::Kind::number:
      out += value.text;
      break;
    case resnet_deploy::Json::Kind::string:
      out += resnet_deploy::json_string(value.text);
      break;
    case resnet_deploy::Json::Kind::array:
      for (std::size_t i = 0; i < value.items.size(); ++i) canonical(value.items[i], out += i == 0 ? "[" : ", ");
      out += value.items.empty() ? "[]" : "]";
      break;
    case resnet_deploy::Json::Kind::object: {
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
  using namespace resnet_deploy;
  if (what == "json") {
    std::string text;
    canonical(Parser(bytes(given)).document(), text);
    return text;
  }
  if (what == "sha256") return sha256(bytes(given));
  if (what == "text") return json_string(bytes(given));
  if (what == "engine")
    return Engine(read_file(given), given, Options{}
#if defined(RESNET_DEPLOY_TENSORRT)
                  ,
                  false
#endif
                  )
        .runtime;
  float value = 0;
  if (what == "widened") {
    value = widened(static_cast<std::uint16_t>(std::stoi(given)));
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return std::to_string(bits);
  }
  const std::string data = bytes(given);
  std::memcpy(&value, data.data(), sizeof value);
  return std::to_string(narrowed(value));
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
