// TensorRT, TensorRT-RTX and TensorRT's lean runtime, for the bundle's plans; RESNET_DEPLOY_FLAVOUR says which.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <mutex>
#include <string_view>
#include <utility>

#include "cuda.h"
#include "errors.h"
#include "plan.h"
#include "runtime.h"
#include "tensors.h"

namespace resnet_deploy::internal {
namespace {

constexpr std::string_view flavour = RESNET_DEPLOY_FLAVOUR;
constexpr bool is_rtx = flavour == "tensorrt-rtx";
constexpr bool is_lean = flavour == "tensorrt-lean";  // it runs TensorRT's version-compatible plans alone

// Of `resnet-deploy build`, for plans that run here.
constexpr const char* build_options =
    is_lean ? "--flavour tensorrt --version-compatible" : "--flavour " RESNET_DEPLOY_FLAVOUR;

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

  // Without the place in TensorRT's sources. It is told once: what fails later has a reason of its own.
  [[nodiscard]] std::string take_reason() {
    const std::scoped_lock lock(mutex_);
    const std::string reason = std::exchange(reason_, {});
    return reason.empty() ? "it gave no reason" : reason.substr(0, reason.find(" In "));
  }

  [[nodiscard]] bool mentions(std::string_view part) const {
    const std::scoped_lock lock(mutex_);
    return reason_.find(part) != std::string::npos;
  }

  // What was only a warning by its outcome is no reason for what fails later.
  void clear() {
    const std::scoped_lock lock(mutex_);
    reason_.clear();
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
      throw_input_error("the plan's " + name + " is of a type that this program has not: export it without --native-io");
  }
}

class TrtRunner : public Runner {
 public:
  TrtRunner(std::unique_ptr<nvinfer1::IExecutionContext> context, std::int32_t profile, const Engine& engine, Log& log,
            const Options& options, std::int64_t batch)
      : runtime_(engine.runtime), log_(&log), device_(options.device), stream_(make_stream()), context_(std::move(context)) {
    require(context_->setOptimizationProfileAsync(profile, stream_.get()), "its profile");
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
    // TensorRT-RTX settles on its kernels while it runs: a graph would keep the first ones.
    if (options.cuda_graph && !is_rtx) capture();
  }

  void run(const void* images) override {
    check(cudaSetDevice(device_), "cannot use the GPU");  // the thread may be a new one
    if (images != input_.host.get()) std::memcpy(input_.host.get(), images, input_.size);
    if (graph_) {
      check(cudaGraphLaunch(graph_.get(), stream_.get()), "cannot start the CUDA graph");
    } else {
      enqueue();
    }
    synchronize();
  }

  [[nodiscard]] std::byte* input() override { return static_cast<std::byte*>(input_.host.get()); }
  [[nodiscard]] const std::byte* output(std::size_t index) const override {
    return static_cast<const std::byte*>(outputs_[index].host.get());
  }

 private:
  struct Buffer {
    std::size_t size = 0;
    PinnedMemory host;
    DeviceMemory device;
  };

  Buffer bind(const TensorSpec& spec, std::int64_t batch) {
    Buffer buffer;
    buffer.size = byte_count(spec, batch);
    buffer.host = allocate_pinned(buffer.size);
    buffer.device = allocate_device(buffer.size);
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
    const auto end_capture = [this] {
      cudaGraph_t captured = nullptr;
      const cudaError_t status = cudaStreamEndCapture(stream_.get(), &captured);
      return std::pair(status, Graph(captured));
    };
    try {
      enqueue();
    } catch (...) {
      end_capture();
      throw;
    }
    const auto [status, captured] = end_capture();
    check(status, "cannot capture a CUDA graph");
    cudaGraphExec_t ready = nullptr;
    check(cudaGraphInstantiateWithFlags(&ready, captured.get(), 0), "cannot make a CUDA graph");
    graph_.reset(ready);
  }

  void require(bool done, const char* what) const {
    if (!done) throw_machine_error(runtime_ + " refused " + what + ": " + log_->take_reason());
  }

  void synchronize() { check(cudaStreamSynchronize(stream_.get()), "the inference failed"); }

  std::string runtime_;
  Log* log_;  // of the engine
  int device_;
  Stream stream_;
  Buffer input_;
  std::vector<Buffer> outputs_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  GraphExec graph_;
};

// Major, minor, patch and build of the library that is loaded.
std::string runtime_version() {
  std::string text;
  for (const std::int32_t part :
       {getInferLibMajorVersion(), getInferLibMinorVersion(), getInferLibPatchVersion(), getInferLibBuildVersion()}) {
    text += (text.empty() ? "" : ".") + std::to_string(part);
  }
  return text;
}

// What `trtexec --getPlanVersionOnly` reads: a tag, and the version at byte 24.
bool begins_as_plan(const std::string& data) { return data.size() >= 28 && data.compare(0, 4, "ftrt") == 0; }

int require_device() {
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    throw_machine_error(std::string("no NVIDIA GPU that can be used (") + cudaGetErrorString(status) +
                        "). Install or update the driver, or use the machine of the plan");
  }
  return devices;
}

// Batch sizes of an optimization profile: the smallest, the one that kernels are chosen for, the largest.
using Profile = std::array<std::int64_t, 3>;

class TrtEngine : public Engine {
 public:
  TrtEngine(const std::string& data, const std::string& path, Options options, bool version_compatible)
      : options_(std::move(options)) {
    runtime = std::string(flavour) + " " + runtime_version();
    if (data.empty()) throw_input_error(path + " is empty; build it again");
    if (!is_rtx && !begins_as_plan(data)) {
      throw_input_error(path + " is no plan of TensorRT: it does not begin as one. Build it again with `resnet-deploy build`");
    }
    // Not left to the lean library: without a driver its runtime is a pointer to nowhere.
    if (is_lean) require_device();
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (!runtime_) throw_machine_error(runtime + " does not start: " + log_.take_reason());
    runtime_->setEngineHostCodeAllowed(version_compatible);  // such plans bring their own runtime
    engine_.reset(runtime_->deserializeCudaEngine(data.data(), data.size()));
    if (!engine_) fail_to_load(path);
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) read_tensor(engine_->getIOTensorName(i));
    if (input.name.empty()) throw_input_error(path + " has no input; a residual network has one");
    max_batch = 0;
    for (std::int32_t i = 0; i < engine_->getNbOptimizationProfiles(); ++i) {
      max_batch = std::max(*max_batch, profiles_.emplace_back(read_profile(i))[2]);
    }
    log_.clear();
  }

  [[nodiscard]] std::unique_ptr<Runner> make_runner(std::int64_t batch) const override {
    check(cudaSetDevice(options_.device), "cannot use the GPU");
    const std::int32_t profile = best_profile(batch);
    return std::make_unique<TrtRunner>(make_context(), profile, *this, log_, options_, batch);
  }

 private:
  [[noreturn]] void fail_to_load(const std::string& path) const {
    const bool no_gpu = log_.mentions("cudaError 35") || log_.mentions("cudaError 100");
    const bool no_memory = log_.mentions("OutOfMemory") || log_.mentions("out of memory");
    const std::string message = runtime + " cannot load " + path + ": " + log_.take_reason();
    if (no_gpu) throw_machine_error(message + ". It needs an NVIDIA GPU and its driver");
    if (no_memory) {
      throw_machine_error(message + ". Stop what else uses the GPU, or take another with the option device");
    }
    throw_input_error(message + ". Build it again with `resnet-deploy build`");
  }

  void read_tensor(const char* name) {
    const nvinfer1::Dims dims = engine_->getTensorShape(name);
    TensorSpec spec{name, dtype_of(engine_->getTensorDataType(name), name), {}};
    for (std::int32_t i = 1; i < dims.nbDims; ++i) spec.shape.push_back(dims.d[i]);
    if (engine_->getTensorIOMode(name) != nvinfer1::TensorIOMode::kINPUT) {
      outputs.push_back(std::move(spec));
    } else if (input.name.empty()) {
      if (engine_->getTensorFormat(name) != nvinfer1::TensorFormat::kLINEAR) {
        throw_input_error("the plan takes its images in a layout of its own, which Python alone packs. Build it without "
                          "--input-format");
      }
      input = std::move(spec);
    } else {
      throw_input_error("the plan has more than one input; a residual network has one");
    }
  }

  [[nodiscard]] Profile read_profile(std::int32_t index) const {
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
      throw_input_error("no profile of the plan holds batch " + std::to_string(batch) +
                        "; build it with `resnet-deploy build --batch`");
    return best;
  }

  [[nodiscard]] std::unique_ptr<nvinfer1::IExecutionContext> make_context() const {
    const std::scoped_lock lock(mutex_);
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine_->createExecutionContext());
    if (!context) throw_machine_error(runtime + " cannot make a context: " + log_.take_reason());
    return context;
  }

  mutable Log log_;  // outlives what writes to it
  Options options_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<Profile> profiles_;
  mutable std::mutex mutex_;
};

Machine machine_without_gpu() {
  utsname system{};
  if (uname(&system) != 0) throw_machine_error("cannot tell which system this is");
  Machine machine;
  machine.flavour = flavour;
  machine.version = runtime_version();
  machine.platform = std::string(static_cast<const char*>(system.sysname)) + "-" + static_cast<const char*>(system.machine);
  return machine;
}

void find_gpu(Machine& machine, int device) {
  const int devices = require_device();
  if (device < 0 || device >= devices) {
    throw_input_error("there is no GPU " + std::to_string(device) + ": they are 0 to " + std::to_string(devices - 1));
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cannot read the GPU's properties");
  machine.gpu = static_cast<const char*>(properties.name);
  machine.capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
}

struct Plan {
  std::string name;
  Origin origin;
};

// The plans of a precision that were built from the bundle's graph as it is now.
std::vector<Plan> find_plans(const Bundle& bundle, const std::string& precision) {
  const Field artifacts = bundle.artifacts();
  const auto graph = artifacts.find("model." + precision + ".onnx");
  std::vector<Plan> plans;
  for (const std::string& name : artifacts.names()) {
    const Field entry = artifacts.at(name);
    if (!can_run(name, entry) || entry.at("precision").text() != precision) continue;
    if (graph && entry.at("made_from").text() != graph->at("sha256").text()) continue;
    plans.push_back({name, Origin(entry.at("origin"))});
  }
  // Those for one version of TensorRT first: they are faster.
  std::stable_sort(plans.begin(), plans.end(), [](const Plan& one, const Plan& other) {
    return !one.origin.version_compatible() && other.origin.version_compatible();
  });
  if (plans.empty()) {
    throw_input_error(bundle.folder().string() + " has no " + precision +
                      (is_lean ? " version-compatible" : "") + " plan for " RESNET_DEPLOY_FLAVOUR
                      "; make one with `resnet-deploy build DIR --precision " + precision + " " + build_options + "`");
  }
  return plans;
}

// The first plan that runs here.
const Plan& choose_plan(const std::vector<Plan>& plans, int device) {
  Machine machine = machine_without_gpu();
  const auto fitting = [&] {
    return std::find_if(plans.begin(), plans.end(), [&](const Plan& plan) { return plan.origin.misfit(machine).empty(); });
  };
  if (fitting() != plans.end()) find_gpu(machine, device);
  const auto chosen = fitting();
  if (chosen == plans.end()) {
    const Origin& origin = plans.front().origin;
    throw_machine_error("the plan was built with " + origin.text() + "; found " + origin.misfit(machine) +
                        ". Build it again here with `resnet-deploy build DIR " + build_options +
                        "`, or use what it was built with");
  }
  return *chosen;
}

}  // namespace

bool can_run(const std::string&, const Field& entry) {
  if (entry.at("kind").text() != "plan") return false;
  const Field origin = entry.at("origin");
  if (is_lean) return origin.at("flavour").text() == "tensorrt" && origin.at("version_compatible").truth();
  return origin.at("flavour").text() == flavour;
}

std::unique_ptr<Engine> read_engine(const std::string& data, const std::string& path, const Options& options,
                                    bool version_compatible) {
  return std::make_unique<TrtEngine>(data, path, options, version_compatible);
}

std::unique_ptr<Engine> load_engine(const Bundle& bundle, const std::string& precision, const Options& options) {
  const std::vector<Plan> plans = find_plans(bundle, precision);
  std::string data = bundle.read_artifact(plans.front().name);  // that a file was changed is said before what the machine lacks
  const Plan& plan = choose_plan(plans, options.device);
  if (&plan != &plans.front()) data = bundle.read_artifact(plan.name);
  check(cudaSetDevice(options.device), "cannot use the GPU");
  auto engine = read_engine(data, (bundle.folder() / plan.name).string(), options, plan.origin.version_compatible());
  engine->artifact = plan.name;
  return engine;
}

}  // namespace resnet_deploy::internal
