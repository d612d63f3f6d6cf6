// ONNX Runtime's CPU kernels, for the bundle's ONNX files.
#include <onnxruntime_cxx_api.h>

#include <utility>

#include "errors.h"
#include "runtime.h"
#include "tensors.h"

namespace resnet_deploy::internal {
namespace {

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
      throw_input_error("the model's " + name + " is of a type that this program has not: export it without --native-io");
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
  if (spec.shape.empty()) throw_input_error("the model's " + spec.name + " has no batch dimension");
  spec.shape.erase(spec.shape.begin());
  return spec;
}

std::vector<std::int64_t> with_batch(const TensorSpec& spec, std::int64_t batch) {
  std::vector<std::int64_t> shape = spec.shape;
  shape.insert(shape.begin(), batch);
  return shape;
}

class OrtRunner : public Runner {
 public:
  // The session outlives the runner. Running one changes nothing that threads could see.
  OrtRunner(Ort::Session& session, const TensorSpec& input, const std::vector<TensorSpec>& outputs, std::int64_t batch)
      : session_(&session),
        input_name_(input.name),
        input_type_(element_type(input.dtype)),
        input_shape_(with_batch(input, batch)),
        input_bytes_(byte_count(input, batch)) {
    input_.resize(input.dtype == DType::uint8 ? 0 : input_bytes_);
    for (const TensorSpec& spec : outputs) {
      std::vector<std::byte>& memory = memory_.emplace_back(byte_count(spec, batch));
      const auto shape = with_batch(spec, batch);
      outputs_.push_back(
          Ort::Value::CreateTensor(cpu_, memory.data(), memory.size(), shape.data(), shape.size(), element_type(spec.dtype)));
      output_names_.push_back(spec.name.c_str());
    }
  }

  void run(const void* images) override {
    try {
      // ONNX Runtime only reads its inputs.
      const Ort::Value value = Ort::Value::CreateTensor(cpu_, const_cast<void*>(images), input_bytes_, input_shape_.data(),
                                                        input_shape_.size(), input_type_);
      const char* name = input_name_.c_str();
      session_->Run(Ort::RunOptions{nullptr}, &name, &value, 1, output_names_.data(), outputs_.data(), outputs_.size());
    } catch (const Ort::Exception& error) {
      throw_machine_error(std::string("ONNX Runtime failed while it ran: ") + error.what());
    }
  }

  [[nodiscard]] std::byte* input() override { return input_.data(); }
  [[nodiscard]] const std::byte* output(std::size_t index) const override { return memory_[index].data(); }

 private:
  Ort::Session* session_;
  Ort::MemoryInfo cpu_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::string input_name_;
  ONNXTensorElementDataType input_type_;
  std::vector<std::int64_t> input_shape_;
  std::size_t input_bytes_ = 0;
  std::vector<std::byte> input_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<Ort::Value> outputs_;
  std::vector<const char*> output_names_;  // of the engine's outputs
};

class OrtEngine : public Engine {
 public:
  OrtEngine(const std::string& data, const std::string& path, const Options& options) {
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
      throw_machine_error("this program was compiled for ONNX Runtime 1." + std::to_string(ORT_API_VERSION) + ", found " +
                          OrtGetApiBase()->GetVersionString() + ". Install that or a newer one");
    }
    runtime = std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString();
    try {
      env_ = Ort::Env(ORT_LOGGING_LEVEL_FATAL, "resnet_deploy");  // what matters arrives as exceptions
      Ort::SessionOptions settings;
      if (options.threads > 0) settings.SetIntraOpNumThreads(options.threads);
      session_ = Ort::Session(env_, data.data(), data.size(), settings);
      const Ort::AllocatorWithDefaultOptions allocator;
      if (session_.GetInputCount() != 1) throw_input_error(path + " has not one input, as a residual network has" + kRemake);
      input = spec_of(session_.GetInputNameAllocated(0, allocator), session_.GetInputTypeInfo(0));
      for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
        outputs.push_back(spec_of(session_.GetOutputNameAllocated(i, allocator), session_.GetOutputTypeInfo(i)));
      }
    } catch (const Ort::Exception& error) {
      throw_input_error("ONNX Runtime cannot load " + path + ": " + error.what());
    }
  }

  [[nodiscard]] std::unique_ptr<Runner> make_runner(std::int64_t batch) const override {
    try {
      return std::make_unique<OrtRunner>(session_, input, outputs, batch);
    } catch (const Ort::Exception& error) {
      throw_machine_error("ONNX Runtime cannot take a batch of " + std::to_string(batch) + ": " + error.what());
    }
  }

 private:
  Ort::Env env_{nullptr};
  mutable Ort::Session session_{nullptr};  // `Run` is not const, and safe to call from many threads
};

// The graph of a precision: INT8 has one for CPUs.
std::string graph_of(const std::string& precision) {
  return precision == "int8" ? "model.int8-cpu.onnx" : "model." + precision + ".onnx";
}

}  // namespace

bool can_run(const std::string& name, const Field& entry) {
  const auto precision = entry.find("precision");
  return precision && name == graph_of(precision->text());
}

std::unique_ptr<Engine> read_engine(const std::string& data, const std::string& path, const Options& options, bool) {
  return std::make_unique<OrtEngine>(data, path, options);
}

std::unique_ptr<Engine> load_engine(const Bundle& bundle, const std::string& precision, const Options& options) {
  const std::string name = graph_of(precision);
  if (!bundle.artifacts().find(name)) {
    throw_input_error(bundle.folder().string() + " has no " + name + "; make it with `resnet-deploy export ... --precision " +
                      precision + "`");
  }
  auto engine = read_engine(bundle.read_artifact(name), (bundle.folder() / name).string(), options);
  engine->artifact = name;
  return engine;
}

}  // namespace resnet_deploy::internal
