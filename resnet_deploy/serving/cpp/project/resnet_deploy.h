// Runs a bundle of resnet-deploy with ONNX Runtime on a CPU, or with TensorRT or TensorRT-RTX on a GPU.
//
//   resnet_deploy::Model model("bundle");
//   resnet_deploy::Context context = model.context();            // one for each thread
//   const auto& outputs = context.infer(pixels, size_in_bytes);  // uint8 RGB, height x width x 3
//
// Nothing of a bundle is given to a runtime before its schema version, its hashes and, of a plan, its version and GPU are
// checked: reading a plan runs native code. Everything that goes wrong is an Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace resnet_deploy {

// The exit codes of resnet-deploy.
enum class Exit : int {
  input = 2,    // a bundle, an image or an option that cannot be used
  machine = 3,  // this machine cannot do it: no GPU, another version, out of memory, a full disk
};

class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] Exit code() const noexcept { return code_; }

 private:
  Exit code_;
};

enum class DType { uint8, int64, float16, float32 };

struct TensorSpec {
  std::string name;
  DType dtype = DType::float32;
  std::vector<std::int64_t> shape;  // of one image: without the batch
};

struct Options {
  std::string precision;   // fp32, fp16, bf16, int8 or fp8; empty: the only one that there is, or fp32
  int threads = 0;         // CPU threads of one inference, for ONNX Runtime; 0: the physical cores
  int device = 0;          // CUDA device
  bool cuda_graph = true;  // TensorRT: replay one inference as a CUDA graph. TensorRT-RTX goes without
};

// What was loaded.
struct Description {
  std::string architecture;
  std::string artifact;  // the file that runs
  std::string runtime;   // such as "onnxruntime 1.32.0"
  std::string head;      // logits, probabilities, embedding, features or topk
  TensorSpec input;
  std::vector<TensorSpec> outputs;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t max_batch = 1;
  std::vector<std::string> labels;  // names of the classes; empty where the bundle has none
};

// An answer in host memory, valid until the context's next inference.
struct Output {
  std::string name;
  std::vector<std::int64_t> shape;        // the batch first
  std::size_t size = 0;                   // elements
  const float* values = nullptr;          // of every output but indices; float16 is widened
  const std::int64_t* indices = nullptr;  // of topk_indices
};

struct Class {
  std::int64_t index = 0;
  float value = 0;    // a logit or a probability, as the head has it
  std::string label;  // empty where the bundle has no labels
};

// Inferences of one batch size, one at a time: a thread has a context of its own. All memory is allocated beforehand.
class Context {
 public:
  class Impl;
  explicit Context(std::unique_ptr<Impl> impl);
  Context(Context&&) noexcept;
  Context& operator=(Context&&) noexcept;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();

  // Runs a batch of uint8 RGB pixels, batch x height x width x 3; a bundle with float input has them normalized here. size:
  // in bytes, checked.
  const std::vector<Output>& infer(const std::uint8_t* pixels, std::size_t size);

  // The best classes of an image of the last batch, best first; all that topk:K answered where that is fewer.
  [[nodiscard]] std::vector<Class> top(std::int64_t image, std::size_t count) const;

  [[nodiscard]] std::int64_t batch() const noexcept;

 private:
  std::unique_ptr<Impl> impl_;
};

// A loaded bundle. Threads may share it; it lives as long as its contexts.
class Model {
 public:
  explicit Model(const std::filesystem::path& bundle, const Options& options = {});

  [[nodiscard]] const Description& description() const noexcept;
  [[nodiscard]] Context context(std::int64_t batch = 1) const;

  class Impl;

 private:
  std::shared_ptr<const Impl> impl_;
};

// A string as JSON has it, in ASCII; bytes that are not UTF-8 as Python's surrogateescape writes them.
std::string json_string(std::string_view text);

}  // namespace resnet_deploy
