// The public classes: a model of a bundle, and contexts that run it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <new>
#include <numeric>
#include <optional>

#include "bundle.h"
#include "errors.h"
#include "preprocessing.h"
#include "resnet_deploy.h"
#include "runtime.h"
#include "tensors.h"

namespace resnet_deploy {

using namespace internal;

namespace {

// The only precision that there is a file of, or fp32.
std::string default_precision(const Field& artifacts) {
  std::vector<std::string> precisions;
  for (const std::string& name : artifacts.names()) {
    const Field entry = artifacts.at(name);
    if (can_run(name, entry)) precisions.push_back(entry.at("precision").text());
  }
  std::sort(precisions.begin(), precisions.end());
  precisions.erase(std::unique(precisions.begin(), precisions.end()), precisions.end());
  return precisions.size() == 1 ? precisions.front() : "fp32";
}

std::string choose_precision(const Field& artifacts, const Options& options) {
  std::string precision = options.precision.empty() ? default_precision(artifacts) : options.precision;
  constexpr std::array<std::string_view, 5> known = {"fp32", "fp16", "bf16", "int8", "fp8"};
  if (std::find(known.begin(), known.end(), precision) == known.end()) {
    throw_input_error("unknown precision " + json_string(precision) + "; choose fp32, fp16, bf16, int8 or fp8");
  }
  return precision;
}

// An image's shape as the manifest has it: without the batch.
std::vector<std::int64_t> recorded_shape(const Field& input) {
  const std::vector<Field> sizes = input.at("shape").list();
  std::vector<std::int64_t> shape;
  for (std::size_t i = 1; i < sizes.size(); ++i) shape.push_back(sizes[i].integer());
  return shape;
}

}  // namespace

class Model::Impl {
 public:
  Impl(const std::filesystem::path& folder, const Options& options) {
    if (options.threads < 0) {
      throw_input_error("threads are 0 (the physical cores) or more; found " + std::to_string(options.threads));
    }
    const Bundle bundle(folder);
    const Field model = bundle.model();
    engine = load_engine(bundle, choose_precision(bundle.artifacts(), options), options);
    description.artifact = engine->artifact;
    description.architecture = model.at("architecture").text();
    description.runtime = engine->runtime;
    description.head = model.at("head").at("kind").text();
    description.input = engine->input;
    description.outputs = engine->outputs;
    description.max_batch = model.at("request").at("max_batch").integer();
    if (engine->max_batch) description.max_batch = *engine->max_batch;
    if (description.max_batch < 1) {
      throw_input_error(description.artifact + " is for batches to " + std::to_string(description.max_batch) +
                        "; expected 1 or more" + kRemake);
    }
    if (const Field names = model.at("class_names"); !names.null()) {
      for (const Field& name : names.list()) description.labels.push_back(name.text());
    }
    read_input(model);
    check_outputs();
  }

  Description description;
  std::unique_ptr<Engine> engine;
  std::optional<Normalization> normalization;  // where pixels are normalized here

 private:
  void read_input(const Field& model) {
    const std::vector<std::int64_t> recorded = recorded_shape(model.at("input"));
    const bool pixels = model.at("input_format").text() == "uint8";
    const auto& [name, dtype, shape] = engine->input;
    const bool typed = pixels ? dtype == DType::uint8 : dtype == DType::float32 || dtype == DType::float16;
    if (shape != recorded || shape.size() != 3 || shape[pixels ? 2 : 0] != 3 || !typed) {
      throw_input_error(description.artifact + " takes " + shape_text(shape) + ", the manifest says " + shape_text(recorded) +
                        kRemake);
    }
    description.height = shape[pixels ? 0 : 1];
    description.width = shape[pixels ? 1 : 2];
    static_cast<void>(element_count(engine->input, 1));
    if (!pixels) normalization.emplace(model.at("preprocessing"));
  }

  void check_outputs() const {
    std::size_t values = 0;
    std::size_t indices = 0;  // elements of the first output of each kind
    for (const TensorSpec& output : engine->outputs) {
      std::size_t& first = output.dtype == DType::int64 ? indices : values;
      if (first == 0) first = element_count(output, 1);
      static_cast<void>(element_count(output, 1));
      if (output.dtype == DType::uint8)
        throw_input_error("the model's " + output.name + " is uint8; expected numbers" + kRemake);
    }
    const std::string& head = description.head;
    const bool scores = head == "logits" || head == "probabilities";
    if (engine->outputs.empty() || (scores && engine->outputs.front().dtype == DType::int64)) {
      throw_input_error("the head " + head + " has numbers of each class; " + description.artifact + " has none" + kRemake);
    }
    if (head == "topk" && (values == 0 || values != indices)) {
      throw_input_error("the head topk has as many values as indices; " + description.artifact + " has not" + kRemake);
    }
  }
};

class Context::Impl {
 public:
  Impl(std::shared_ptr<const Model::Impl> model, std::int64_t batch)
      : model_(std::move(model)),
        batch_(batch),
        pixel_bytes_(element_count(model_->description.input, batch)),
        runner_(model_->engine->make_runner(batch)) {
    const std::vector<TensorSpec>& specs = model_->description.outputs;
    for (std::size_t i = 0; i < specs.size(); ++i) {
      Output output;
      output.name = specs[i].name;
      output.shape = specs[i].shape;
      output.shape.insert(output.shape.begin(), batch);
      output.size = element_count(specs[i], batch);
      if (specs[i].dtype == DType::int64) output.indices = reinterpret_cast<const std::int64_t*>(runner_->output(i));
      if (specs[i].dtype == DType::float32) output.values = reinterpret_cast<const float*>(runner_->output(i));
      std::vector<float>& wide = widened_.emplace_back(specs[i].dtype == DType::float16 ? output.size : 0);
      if (specs[i].dtype == DType::float16) output.values = wide.data();
      outputs_.push_back(std::move(output));
    }
  }

  const std::vector<Output>& infer(const std::uint8_t* pixels, std::size_t size) {
    if (pixels == nullptr) throw_input_error("the images are a null pointer");
    if (size != pixel_bytes_) {
      const Description& description = model_->description;
      throw_input_error("a batch of " + std::to_string(batch_) + " images of " + std::to_string(description.width) + "x" +
                        std::to_string(description.height) + " RGB pixels has " + std::to_string(pixel_bytes_) +
                        " bytes; found " + std::to_string(size));
    }
    ran_ = false;
    if (!model_->normalization) {
      runner_->run(pixels);
    } else {
      normalize(pixels);
      runner_->run(runner_->input());
    }
    for (std::size_t i = 0; i < widened_.size(); ++i) widen(runner_->output(i), widened_[i]);
    ran_ = true;
    return outputs_;
  }

  [[nodiscard]] std::vector<Class> top(std::int64_t image, std::size_t count) const {
    if (!ran_) throw_input_error("there is no answer yet: call infer first");
    if (image < 0 || image >= batch_) {
      throw_input_error("there is no image " + std::to_string(image) + " in a batch of " + std::to_string(batch_));
    }
    const std::string& head = model_->description.head;
    if (head == "topk") return top_of_graph(image, count);
    if (head != "logits" && head != "probabilities")
      throw_input_error("the head " + head + " names no class: use what infer returns");
    const Output& output = outputs_.front();
    const std::size_t classes = output.size / static_cast<std::size_t>(batch_);
    const float* values = output.values + static_cast<std::size_t>(image) * classes;
    if (!std::all_of(values, values + classes, [](float value) { return std::isfinite(value); })) {
      throw_machine_error("the answer has NaN or Inf: the model cannot be trusted with this image, or in this precision");
    }
    std::vector<std::int64_t> order(classes);
    std::iota(order.begin(), order.end(), std::int64_t{0});
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(count, classes));
    std::partial_sort(order.begin(), end, order.end(), [values](std::int64_t a, std::int64_t b) {
      return values[a] != values[b] ? values[a] > values[b] : a < b;
    });
    std::vector<Class> best;
    for (auto index = order.begin(); index != end; ++index) best.push_back(with_label(*index, values[*index]));
    return best;
  }

  [[nodiscard]] std::int64_t batch() const noexcept { return batch_; }

 private:
  void normalize(const std::uint8_t* pixels) {
    const Description& description = model_->description;
    const auto images = static_cast<std::size_t>(batch_);
    const auto area = static_cast<std::size_t>(description.height * description.width);
    if (description.input.dtype == DType::float16) {
      model_->normalization->apply(pixels, images, area, reinterpret_cast<std::uint16_t*>(runner_->input()));
    } else {
      model_->normalization->apply(pixels, images, area, reinterpret_cast<float*>(runner_->input()));
    }
  }

  static void widen(const std::byte* halves, std::vector<float>& values) {
    for (float& value : values) {
      std::uint16_t half = 0;
      std::memcpy(&half, halves, sizeof half);
      halves += sizeof half;
      value = half_to_float(half);
    }
  }

  // What the graph's own top-k answered.
  [[nodiscard]] std::vector<Class> top_of_graph(std::int64_t image, std::size_t count) const {
    const auto find_output = [this](bool indices) {
      return std::find_if(outputs_.begin(), outputs_.end(),
                          [indices](const Output& output) { return (output.indices != nullptr) == indices; });
    };
    const auto indices = find_output(true);
    const auto values = find_output(false);
    const std::size_t k = indices->size / static_cast<std::size_t>(batch_);
    std::vector<Class> best;
    for (std::size_t i = 0; i < std::min(count, k); ++i) {
      const std::size_t at = static_cast<std::size_t>(image) * k + i;
      best.push_back(with_label(indices->indices[at], values->values[at]));
    }
    return best;
  }

  [[nodiscard]] Class with_label(std::int64_t index, float value) const {
    const std::vector<std::string>& labels = model_->description.labels;
    const bool known = index >= 0 && static_cast<std::size_t>(index) < labels.size();
    return {index, value, known ? labels[static_cast<std::size_t>(index)] : ""};
  }

  std::shared_ptr<const Model::Impl> model_;
  std::int64_t batch_;
  std::size_t pixel_bytes_;  // of a batch: one a channel, whatever the model's input is made of
  std::unique_ptr<Runner> runner_;
  std::vector<Output> outputs_;
  std::vector<std::vector<float>> widened_;  // of float16 outputs
  bool ran_ = false;
};

Context::Context(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&&) noexcept = default;
Context::~Context() = default;

const std::vector<Output>& Context::infer(const std::uint8_t* pixels, std::size_t size) { return impl_->infer(pixels, size); }
std::vector<Class> Context::top(std::int64_t image, std::size_t count) const { return impl_->top(image, count); }
std::int64_t Context::batch() const noexcept { return impl_->batch(); }

Model::Model(const std::filesystem::path& bundle, const Options& options) try
    : impl_(std::make_shared<const Impl>(bundle, options)) {
} catch (const std::bad_alloc&) {
  throw_machine_error("out of memory while loading " + bundle.string());
}

const Description& Model::description() const noexcept { return impl_->description; }

Context Model::context(std::int64_t batch) const try {
  const std::int64_t most = impl_->description.max_batch;
  if (batch < 1 || batch > most) {
    throw_input_error("a batch is 1 to " + std::to_string(most) + " images, which is what was proven; found " +
                      std::to_string(batch));
  }
  return Context(std::make_unique<Context::Impl>(impl_, batch));
} catch (const std::bad_alloc&) {
  throw_machine_error("out of memory: use a smaller batch than " + std::to_string(batch));
}

}  // namespace resnet_deploy
