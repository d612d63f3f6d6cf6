// Which images are most like the first one, by the cosine of their embeddings: `nearest BUNDLE QUERY.rgb IMAGE.rgb...`
//
// The bundle has the head `embedding`; images are raw pixels, height x width x 3. Each thread has a context of its own.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <exception>
#include <fstream>
#include <future>
#include <iostream>
#include <iterator>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "resnet_deploy.h"

namespace {

using Embedding = std::vector<float>;

Embedding embed(resnet_deploy::Context& context, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> pixels{std::istreambuf_iterator<char>(file), {}};
  if (pixels.empty()) throw resnet_deploy::Error(resnet_deploy::Exit::input, "cannot read " + path);
  const auto& output = context.infer(reinterpret_cast<const std::uint8_t*>(pixels.data()), pixels.size()).front();
  Embedding found(output.values, output.values + output.size);
  const float length = std::sqrt(std::inner_product(found.begin(), found.end(), found.begin(), 0.0F));
  for (float& value : found) value /= length;
  return found;
}

// The embeddings of files, in their order, on all cores.
std::vector<Embedding> embed_all(const resnet_deploy::Model& model, const std::vector<std::string>& paths) {
  std::vector<Embedding> found(paths.size());
  std::atomic<std::size_t> next{0};
  std::vector<std::future<void>> workers(std::max(1U, std::thread::hardware_concurrency()));
  for (auto& worker : workers) {
    worker = std::async(std::launch::async, [&] {
      resnet_deploy::Context context = model.context();
      for (std::size_t i = next++; i < paths.size(); i = next++) found[i] = embed(context, paths[i]);
    });
  }
  for (auto& worker : workers) worker.wait();
  for (auto& worker : workers) worker.get();  // throws what went wrong
  return found;
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 3)
    throw resnet_deploy::Error(resnet_deploy::Exit::input, "usage: nearest BUNDLE QUERY.rgb IMAGE.rgb...");
  resnet_deploy::Options options;
  options.threads = 1;  // the contexts share the cores
  const resnet_deploy::Model model(arguments.front(), options);
  if (model.description().head != "embedding") {
    throw resnet_deploy::Error(resnet_deploy::Exit::input,
                               "the bundle answers with " + model.description().head + "; export it with --head embedding");
  }
  const std::vector<std::string> paths(arguments.begin() + 1, arguments.end());
  const std::vector<Embedding> embeddings = embed_all(model, paths);
  std::vector<std::pair<float, std::string>> ranked;
  for (std::size_t i = 1; i < paths.size(); ++i) {
    const Embedding& query = embeddings.front();
    ranked.emplace_back(std::inner_product(query.begin(), query.end(), embeddings[i].begin(), 0.0F), paths[i]);
  }
  std::sort(ranked.rbegin(), ranked.rend());
  for (const auto& [cosine, path] : ranked) std::cout << cosine << ' ' << path << '\n';
}

}  // namespace

int main(int count, char** values) {
  try {
    run(std::vector<std::string>(values + std::min(count, 1), values + count));
    return 0;
  } catch (const resnet_deploy::Error& error) {
    std::cerr << "Error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << '\n';
    return static_cast<int>(resnet_deploy::Exit::machine);
  }
}
