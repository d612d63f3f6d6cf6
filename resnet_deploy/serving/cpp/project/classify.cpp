// Runs a bundle of resnet-deploy on images of raw pixels: `classify --help`.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "resnet_deploy.h"

namespace {

namespace rd = resnet_deploy;
using Clock = std::chrono::steady_clock;

constexpr int kWarmUp = 3;  // inferences that are not measured
constexpr const char* kUsage = R"(Usage: classify BUNDLE IMAGE... [OPTIONS]

Runs the images through the bundle's model: the best classes of each, or its embedding.
IMAGE is a PPM file (P6) of the model's size, or - for one on standard input; one that ends in .rgb or .raw has the
bytes alone, height x width x 3.

  --precision P    fp32, fp16, bf16, int8 or fp8. [default: the only one that there is, or fp32]
  --top K          Classes of an image. [default: 5]
  --batch N        Images at a time. [default: 1]
  --contexts N     Inferences that run beside each other, each on a thread of its own. [default: 1]
  --threads N      CPU threads of one inference, for ONNX Runtime. [default: the physical cores]
  --device N       GPU. [default: 0]
  --no-cuda-graph  Start each kernel by itself.
  --repeat N       Run all images N times and say how long an inference took, host to host. [default: 1]
  --json           One JSON object a line, with every output.
  -o, --output F   Write to a file; it appears when all is done.

Exit codes: 0 done, 2 wrong usage or input, 3 this machine can't.
)";

struct Arguments {
  std::vector<std::string> paths;  // the bundle, then the images
  rd::Options options;
  std::size_t top = 5;
  std::int64_t batch = 1;
  int contexts = 1;
  std::int64_t repeat = 1;
  bool json = false;
  std::string output;
};

[[noreturn]] void bad_input(const std::string& message) { throw rd::Error(rd::Exit::input, message); }

std::int64_t whole(const std::string& name, const std::string& text, std::int64_t least, std::int64_t most) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || last != end || value < least || value > most) {
    bad_input(name + " takes a whole number from " + std::to_string(least) + " to " + std::to_string(most) + "; found " + text);
  }
  return value;
}

Arguments parse(const std::vector<std::string>& given) {
  Arguments found;
  bool options = true;
  for (auto argument = given.begin(); argument != given.end(); ++argument) {
    const std::string& name = *argument;
    if (!options || name.empty() || name[0] != '-' || name == "-") {
      found.paths.push_back(name);
      continue;
    }
    const auto value = [&]() -> const std::string& {
      if (std::next(argument) == given.end()) bad_input(name + " needs a value; see classify --help");
      return *++argument;
    };
    const auto number = [&](std::int64_t least, std::int64_t most) { return whole(name, value(), least, most); };
    if (name == "--") {
      options = false;
    } else if (name == "--precision") {
      found.options.precision = value();
    } else if (name == "--top") {
      found.top = static_cast<std::size_t>(number(1, 1'000'000));
    } else if (name == "--batch") {
      found.batch = number(1, 1'000'000);
    } else if (name == "--contexts") {
      found.contexts = static_cast<int>(number(1, 1024));
    } else if (name == "--threads") {
      found.options.threads = static_cast<int>(number(1, 1024));
    } else if (name == "--device") {
      found.options.device = static_cast<int>(number(0, 1024));
    } else if (name == "--no-cuda-graph") {
      found.options.cuda_graph = false;
    } else if (name == "--repeat") {
      found.repeat = number(1, 1'000'000'000);
    } else if (name == "--json") {
      found.json = true;
    } else if (name == "-o" || name == "--output") {
      found.output = value();
    } else {
      bad_input("unknown option " + name + "; see classify --help");
    }
  }
  if (found.paths.size() < 2) bad_input("a bundle and at least one image are needed; see classify --help");
  if ((found.repeat > 1 || found.contexts > 1) && std::count(found.paths.begin() + 1, found.paths.end(), "-") > 0) {
    bad_input("standard input is read once: --repeat and --contexts need files");
  }
  return found;
}

// ---- Images -----------------------------------------------------------------------------------------------------------

std::string size_text(std::int64_t width, std::int64_t height) { return std::to_string(width) + "x" + std::to_string(height); }

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool is_space(int character) { return character > 0 && std::strchr(" \t\r\n\v\f", character) != nullptr; }

// The next number of a PPM header; # starts a comment.
std::int64_t header_number(std::istream& file, const std::string& name) {
  int next = file.get();
  while (next == '#' || is_space(next)) {
    if (next == '#') {
      while (next != '\n' && next != EOF) next = file.get();
    }
    next = file.get();
  }
  std::int64_t value = 0;
  int digits = 0;
  for (; next >= '0' && next <= '9' && digits < 9; ++digits) {
    value = value * 10 + (next - '0');
    next = file.get();
  }
  if (digits == 0 || !is_space(next)) {
    bad_input(name + " is not a PPM file: its header has no width, height and largest value");
  }
  return value;
}

void read_header(std::istream& file, const std::string& name, const rd::Description& model) {
  std::array<char, 2> magic{};
  file.read(magic.data(), magic.size());
  if (file.gcount() != 2 || magic[0] != 'P' || magic[1] != '6') {
    const bool netpbm = magic[0] == 'P' && magic[1] >= '1' && magic[1] <= '7';
    bad_input(name + " is " + (netpbm ? std::string("a P") + magic[1] + " file" : "not a PPM file") +
              "; expected binary RGB, P6. Convert it, or name raw pixels .rgb");
  }
  const std::int64_t width = header_number(file, name);
  const std::int64_t height = header_number(file, name);
  const std::int64_t largest = header_number(file, name);
  if (largest != 255) bad_input(name + " has values to " + std::to_string(largest) + "; expected 8 bits, to 255");
  if (width != model.width || height != model.height) {
    bad_input(name + " is " + size_text(width, height) + ", the model takes " + size_text(model.width, model.height) +
              ": resize and crop it as the README has it");
  }
}

void read_pixels(std::istream& file, const std::string& name, bool raw, const rd::Description& model, std::uint8_t* target) {
  if (!raw) read_header(file, name, model);
  const std::int64_t wanted = model.width * model.height * 3;
  file.read(reinterpret_cast<char*>(target), wanted);
  if (file.gcount() != wanted) {
    bad_input(name + " has " + std::to_string(file.gcount()) + " bytes of pixels; expected " + std::to_string(wanted) +
              " for " + size_text(model.width, model.height) + " RGB: it is truncated, or of another size");
  }
  if (file.peek() != EOF) bad_input(name + " has more than the " + std::to_string(wanted) + " bytes of one image");
}

void read_image(const std::string& path, const rd::Description& model, std::uint8_t* target) {
  if (path == "-") return read_pixels(std::cin, "standard input", false, model, target);
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) bad_input(path + " is a folder; expected an image");
  std::ifstream file(path, std::ios::binary);
  if (!file) bad_input("cannot read " + path + ": " + std::generic_category().message(errno));
  read_pixels(file, path, ends_with(path, ".rgb") || ends_with(path, ".raw"), model, target);
}

// ---- Answers ----------------------------------------------------------------------------------------------------------

// The shortest text that reads back as the same number; with so many decimals where they are given.
template <typename Number, typename... Decimals>
std::string number(Number value, Decimals... decimals) {
  std::array<char, 400> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value, decimals...).ptr};
}

std::string rounded(double value, int decimals) { return number(value, std::chars_format::fixed, decimals); }

// Of one image: which part of an output is its, and the values as text.
std::vector<std::string> values_of(const rd::Output& output, std::int64_t image, std::int64_t batch, std::size_t most) {
  const std::size_t size = output.size / static_cast<std::size_t>(batch);
  const std::size_t start = static_cast<std::size_t>(image) * size;
  std::vector<std::string> found;
  for (std::size_t i = start; i < start + size; ++i) {
    if (output.values != nullptr && !std::isfinite(output.values[i])) {
      throw rd::Error(rd::Exit::machine,
                      "the answer has NaN or Inf: the model cannot be trusted with this image, or in this precision");
    }
    if (found.size() < most)
      found.push_back(output.values != nullptr ? number(output.values[i]) : std::to_string(output.indices[i]));
  }
  return found;
}

std::string joined(const std::vector<std::string>& parts, const char* between) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
  return text;
}

std::string shape_of(const rd::Output& output) {
  std::vector<std::string> sizes;
  sizes.reserve(output.shape.size());
  for (auto size = output.shape.begin() + 1; size != output.shape.end(); ++size) sizes.push_back(std::to_string(*size));
  return "[" + joined(sizes, ", ") + "]";
}

bool has_classes(const rd::Description& model) {
  return model.head == "logits" || model.head == "probabilities" || model.head == "topk";
}

std::string as_json(const std::string& path, const std::vector<rd::Output>& outputs, const std::vector<rd::Class>* top,
                    std::int64_t image, std::int64_t batch) {
  std::string text = "{\"image\": " + rd::json_string(path);
  if (top != nullptr) {
    std::vector<std::string> classes;
    classes.reserve(top->size());
    for (const rd::Class& each : *top) {
      classes.push_back("{\"class\": " + std::to_string(each.index) +
                        ", \"label\": " + (each.label.empty() ? "null" : rd::json_string(each.label)) +
                        ", \"value\": " + number(each.value) + "}");
    }
    text += ", \"top\": [" + joined(classes, ", ") + "]";
  }
  std::vector<std::string> members;
  members.reserve(outputs.size());
  for (const rd::Output& output : outputs) {
    members.push_back(rd::json_string(output.name) + ": {\"shape\": " + shape_of(output) + ", \"values\": [" +
                      joined(values_of(output, image, batch, SIZE_MAX), ", ") + "]}");
  }
  return text + ", \"outputs\": {" + joined(members, ", ") + "}}";
}

std::string as_text(const std::string& path, const std::vector<rd::Output>& outputs, const std::vector<rd::Class>* top,
                    std::int64_t image, std::int64_t batch) {
  std::vector<std::string> parts;
  if (top != nullptr) {
    for (const rd::Class& each : *top) {
      parts.push_back(std::to_string(each.index) + (each.label.empty() ? "" : " " + each.label) + " " + rounded(each.value, 4));
    }
  }
  for (const rd::Output& output : outputs) {
    constexpr std::size_t shown = 6;
    const auto values = values_of(output, image, batch, shown);
    const bool more = output.size / static_cast<std::size_t>(batch) > shown;
    if (top == nullptr)
      parts.push_back(output.name + " " + shape_of(output) + " " + joined(values, " ") + (more ? " ..." : ""));
  }
  return path + ": " + joined(parts, ", ");
}

// ---- The run ----------------------------------------------------------------------------------------------------------

struct Times {
  std::vector<double> latency_s;
  double elapsed_s = 0;  // of the whole, from the first inference to the last
};

// All images, --repeat times, in batches that the workers take in turns.
class Run {
 public:
  Run(const rd::Model& model, const Arguments& arguments)
      : model_(&model),
        arguments_(&arguments),
        images_(arguments.paths.begin() + 1, arguments.paths.end()),
        lines_(images_.size()) {
    const auto batch = static_cast<std::size_t>(arguments.batch);
    for (std::size_t first = 0; first < images_.size(); first += batch) starts_.push_back(first);
  }

  // The lines of the images, in their order. The first of what went wrong is thrown.
  std::vector<std::string> operator()(Times& times) {
    std::vector<std::thread> workers;
    workers.reserve(static_cast<std::size_t>(arguments_->contexts));
    try {
      for (int i = 1; i < arguments_->contexts; ++i) workers.emplace_back([this] { work(); });
    } catch (const std::bad_alloc&) {
      stop(0, std::current_exception());  // and the others are joined
    } catch (const std::system_error&) {
      stop(0, std::make_exception_ptr(rd::Error(rd::Exit::machine, "this machine has no more threads: use fewer --contexts")));
    }
    work();
    for (std::thread& worker : workers) worker.join();
    if (error_) std::rethrow_exception(error_);
    if (last_ > first_) times.elapsed_s = std::chrono::duration<double>(last_ - first_).count();
    times.latency_s = std::move(latency_s_);
    return std::move(lines_);
  }

 private:
  void work() noexcept {
    std::size_t item = 0;
    try {
      std::map<std::size_t, rd::Context> contexts;  // by batch size: the last batch may be smaller
      std::vector<std::uint8_t> pixels;
      std::size_t held = SIZE_MAX;
      while (!stopped_ && (item = next_++) / starts_.size() < static_cast<std::size_t>(arguments_->repeat)) {
        const std::size_t part = item % starts_.size();
        const std::size_t first = starts_[part];
        const std::size_t count = std::min(static_cast<std::size_t>(arguments_->batch), images_.size() - first);
        if (std::exchange(held, part) != part) read(first, count, pixels);
        auto found = contexts.find(count);
        if (found == contexts.end()) {
          found = contexts.emplace(count, model_->context(static_cast<std::int64_t>(count))).first;
          for (int i = 0; i < kWarmUp && arguments_->repeat > 1; ++i) found->second.infer(pixels.data(), pixels.size());
        }
        rd::Context& context = found->second;
        const auto start = Clock::now();
        const std::vector<rd::Output>& outputs = context.infer(pixels.data(), pixels.size());
        note(start, Clock::now());
        if (item / starts_.size() + 1 == static_cast<std::size_t>(arguments_->repeat)) tell(first, count, outputs, context);
      }
    } catch (...) {
      stop(item, std::current_exception());
    }
  }

  void read(std::size_t first, std::size_t count, std::vector<std::uint8_t>& pixels) const {
    const rd::Description& model = model_->description();
    const auto size = static_cast<std::size_t>(model.width * model.height * 3);
    pixels.resize(count * size);
    for (std::size_t i = 0; i < count; ++i) read_image(images_[first + i], model, pixels.data() + i * size);
  }

  void tell(std::size_t first, std::size_t count, const std::vector<rd::Output>& outputs, const rd::Context& context) {
    const bool classes = has_classes(model_->description());
    for (std::size_t i = 0; i < count; ++i) {
      const auto image = static_cast<std::int64_t>(i);
      std::vector<rd::Class> top;
      if (classes) top = context.top(image, arguments_->top);
      const auto write = arguments_->json ? as_json : as_text;
      lines_[first + i] = write(images_[first + i], outputs, classes ? &top : nullptr, image, context.batch());
    }
  }

  void note(Clock::time_point start, Clock::time_point end) {
    const std::scoped_lock lock(mutex_);
    latency_s_.push_back(std::chrono::duration<double>(end - start).count());
    first_ = std::min(first_, start);
    last_ = std::max(last_, end);
  }

  void stop(std::size_t item, std::exception_ptr error) noexcept {
    stopped_ = true;
    const std::scoped_lock lock(mutex_);
    if (error_ && item >= failed_) return;
    failed_ = item;
    error_ = std::move(error);
  }

  const rd::Model* model_;
  const Arguments* arguments_;
  std::vector<std::string> images_;
  std::vector<std::size_t> starts_;  // of the batches
  std::vector<std::string> lines_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;  // of what follows
  std::vector<double> latency_s_;
  Clock::time_point first_ = Clock::time_point::max();
  Clock::time_point last_ = Clock::time_point::min();
  std::size_t failed_ = 0;
  std::exception_ptr error_;
};

std::string summary(const rd::Description& model, const Arguments& arguments, Times times) {
  if (arguments.json) {
    std::vector<std::string> samples;
    samples.reserve(times.latency_s.size());
    for (const double latency_s : times.latency_s) samples.push_back(number(latency_s));
    return "{\"runtime\": " + rd::json_string(model.runtime) + ", \"artifact\": " + rd::json_string(model.artifact) +
           ", \"batch\": " + std::to_string(arguments.batch) + ", \"contexts\": " + std::to_string(arguments.contexts) +
           ", \"elapsed_s\": " + number(times.elapsed_s) + ", \"latency_s\": [" + joined(samples, ", ") + "]}";
  }
  std::sort(times.latency_s.begin(), times.latency_s.end());
  const auto ms = [&times](double part) {
    const auto index = static_cast<std::size_t>(part * static_cast<double>(times.latency_s.size() - 1));
    return rounded(1e3 * times.latency_s[index], 3) + " ms";
  };
  const auto images = static_cast<double>(arguments.repeat) * static_cast<double>(arguments.paths.size() - 1);
  return model.artifact + " of " + model.architecture + " on " + model.runtime + ": " + std::to_string(times.latency_s.size()) +
         " inferences, p50 " + ms(0.5) + ", p90 " + ms(0.9) + ", p99 " + ms(0.99) + ", " +
         rounded(images / times.elapsed_s, 0) + " images/s";
}

// Standard output, or a file that appears whole when all is done.
class Target {
 public:
  explicit Target(const std::string& path) : path_(path) {
    if (path.empty()) return;
    std::error_code error;
    const auto kind = std::filesystem::status(path, error).type();
    beside_ =
        kind == std::filesystem::file_type::not_found || kind == std::filesystem::file_type::regular ? path + ".part" : path;
    errno = 0;
    file_.open(beside_, std::ios::binary);
    if (!file_) fail(rd::Exit::input);
  }
  Target(const Target&) = delete;
  Target(Target&&) = delete;
  Target& operator=(const Target&) = delete;
  Target& operator=(Target&&) = delete;

  ~Target() {
    std::error_code ignored;
    if (beside_ != path_) std::filesystem::remove(beside_, ignored);
  }

  void write(const std::vector<std::string>& lines) {
    std::ostream& stream = path_.empty() ? std::cout : file_;
    errno = 0;
    for (const std::string& line : lines) stream << line << '\n';
    if (!stream.flush()) fail(rd::Exit::machine);
    if (path_.empty()) return;
    file_.close();
    if (!file_) fail(rd::Exit::machine);
    std::error_code error;
    if (beside_ != path_) std::filesystem::rename(beside_, path_, error);
    if (error) throw rd::Error(rd::Exit::input, "cannot write " + path_ + ": " + error.message());
    beside_ = path_;  // nothing is left to remove
  }

 private:
  [[noreturn]] void fail(rd::Exit code) const {
    const std::string reason = errno != 0 ? std::generic_category().message(errno) : "writing failed";
    throw rd::Error(code, "cannot write " + (path_.empty() ? "standard output" : path_) + ": " + reason);
  }

  std::string path_;
  std::string beside_;  // what is written, until it is renamed
  std::ofstream file_;
};

int run(const std::vector<std::string>& given) {
  if (std::find(given.begin(), given.end(), "--help") != given.end() ||
      std::find(given.begin(), given.end(), "-h") != given.end()) {
    std::cout << kUsage;
    return 0;
  }
  const Arguments arguments = parse(given);
  Target target(arguments.output);  // said before the work, not after it
  const rd::Model model(arguments.paths.front(), arguments.options);
  Times times;
  std::vector<std::string> lines = Run(model, arguments)(times);
  if (arguments.repeat > 1) lines.push_back(summary(model.description(), arguments, std::move(times)));
  target.write(lines);
  return 0;
}

}  // namespace

int main(int count, char** values) {
  try {
    return run(std::vector<std::string>(values + std::min(count, 1), values + count));
  } catch (const rd::Error& error) {
    std::cerr << "Error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    std::cerr << "Error: out of memory; use a smaller --batch or fewer --contexts\n";
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << '\n';
  }
  return static_cast<int>(rd::Exit::machine);
}
