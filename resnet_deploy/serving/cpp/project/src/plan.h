// Whether a plan can run here, before any of it is given to TensorRT: reading a plan runs native code.
// resnet_deploy/engine/plan.py writes what a plan needs, and has the same rules.
#pragma once

#include <string>
#include <vector>

#include "bundle.h"

namespace resnet_deploy::internal {

// This machine, in the words of a plan's origin.
struct Machine {
  std::string flavour;  // tensorrt, tensorrt-lean or tensorrt-rtx
  std::string version;  // of the library that is loaded
  std::string platform;
  std::string gpu;         // empty before a GPU was asked
  std::string capability;  // such as 8.6
};

// Where a plan was built and for what.
class Origin {
 public:
  explicit Origin(const Field& entry);

  // What of a machine is not what the plan needs; empty where it runs. A GPU that was not asked is not judged.
  [[nodiscard]] std::string misfit(const Machine& machine) const;

  [[nodiscard]] std::string text() const;
  [[nodiscard]] bool version_compatible() const noexcept { return version_compatible_; }

 private:
  [[nodiscard]] bool version_fits(const std::string& version) const;
  [[nodiscard]] bool gpu_fits(const Machine& machine) const;

  std::string flavour_;
  std::string version_;
  std::string platform_;
  std::string gpu_;
  std::string capability_;
  std::string hardware_;
  bool version_compatible_;
  std::vector<std::string> targets_;
};

}  // namespace resnet_deploy::internal
