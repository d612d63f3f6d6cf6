// CUDA's handles and memory, owned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include "errors.h"

namespace resnet_deploy::internal {

inline void check(cudaError_t status, const char* failure) {
  if (status == cudaSuccess) return;
  const bool memory = status == cudaErrorMemoryAllocation;
  throw_machine_error(std::string(failure) + ": " + cudaGetErrorString(status) + (memory ? ". Use a smaller batch" : ""));
}

// Frees a CUDA handle with the function that does.
template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* handle) const noexcept {
    static_cast<void>(Free(handle));
  }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Freed<cudaStreamDestroy>>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Freed<cudaGraphDestroy>>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Freed<cudaGraphExecDestroy>>;
using DeviceMemory = std::unique_ptr<void, Freed<cudaFree>>;
using PinnedMemory = std::unique_ptr<void, Freed<cudaFreeHost>>;

inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cannot make a stream");
  return Stream(stream);
}

inline DeviceMemory allocate_device(std::size_t size) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, size), "cannot allocate device memory");
  return DeviceMemory(memory);
}

inline PinnedMemory allocate_pinned(std::size_t size) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, size, cudaHostAllocDefault), "cannot allocate pinned memory");
  return PinnedMemory(memory);
}

}  // namespace resnet_deploy::internal
