// What the model asks of a runtime. Of onnxruntime.cpp and tensorrt.cpp, CMake compiles the one that BACKEND names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"
#include "resnet_deploy.h"

namespace resnet_deploy::internal {

// Runs one batch size of an engine, in memory of its own, for one thread at a time.
class Runner {
 public:
  Runner() = default;
  Runner(const Runner&) = delete;
  Runner(Runner&&) = delete;
  Runner& operator=(const Runner&) = delete;
  Runner& operator=(Runner&&) = delete;
  virtual ~Runner() = default;

  // Runs a batch that lies at `images`, in host memory: at `input()`, or wherever pixels are.
  virtual void run(const void* images) = 0;

  // Host memory: where normalized images are put, and the answers of the last run.
  [[nodiscard]] virtual std::byte* input() = 0;
  [[nodiscard]] virtual const std::byte* output(std::size_t index) const = 0;
};

// A loaded file. Threads share it; it outlives its runners.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine(Engine&&) = delete;
  Engine& operator=(const Engine&) = delete;
  Engine& operator=(Engine&&) = delete;
  virtual ~Engine() = default;

  [[nodiscard]] virtual std::unique_ptr<Runner> make_runner(std::int64_t batch) const = 0;

  std::string artifact;  // the file of the bundle
  std::string runtime;   // such as "onnxruntime 1.32.0"
  TensorSpec input;
  std::vector<TensorSpec> outputs;
  std::optional<std::int64_t> max_batch;  // where the file has one of its own
};

// Whether an artifact is a file that this runtime runs; entry: what the manifest says of it.
bool can_run(const std::string& name, const Field& entry);

// Chooses the file that runs a precision on this machine, checks it, and loads it.
std::unique_ptr<Engine> load_engine(const Bundle& bundle, const std::string& precision, const Options& options);

// Loads the bytes of a file that was checked. path: for messages. version_compatible: of a plan, whether it brings its own
// runtime.
std::unique_ptr<Engine> read_engine(const std::string& data, const std::string& path, const Options& options,
                                    bool version_compatible = false);

}  // namespace resnet_deploy::internal
