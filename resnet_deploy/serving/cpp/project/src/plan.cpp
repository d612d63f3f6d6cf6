#include "plan.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <system_error>

namespace resnet_deploy::internal {
namespace {

// The leading numbers of a version: 10.13.3.9.post1 -> 10, 13, 3, 9.
std::vector<int> leading_numbers(const std::string& version) {
  std::vector<int> numbers;
  std::istringstream parts(version);
  for (std::string part; std::getline(parts, part, '.');) {
    int number = 0;
    const char* end = part.data() + part.size();
    const auto [last, error] = std::from_chars(part.data(), end, number);
    if (error != std::errc() || last != end) break;
    numbers.push_back(number);
  }
  return numbers;
}

std::string sm(std::string capability) {
  capability.erase(std::remove(capability.begin(), capability.end(), '.'), capability.end());
  return "sm" + capability;
}

}  // namespace

Origin::Origin(const Field& entry)
    : flavour_(entry.at("flavour").text()),
      version_(entry.at("version").text()),
      platform_(entry.at("platform").text()),
      gpu_(entry.at("gpu").text_or_null()),
      capability_(entry.at("compute_capability").text_or_null()),
      hardware_(entry.at("hardware_compatible").text_or_null()),
      version_compatible_(entry.at("version_compatible").truth()) {
  for (const Field& target : entry.at("targets").list()) targets_.push_back(target.text());
}

std::string Origin::misfit(const Machine& machine) const {
  std::string misfits;
  const auto add = [&misfits](const std::string& what) { misfits += (misfits.empty() ? "" : ", ") + what; };
  if (!version_fits(machine.version)) add(machine.flavour + " " + machine.version);
  if (platform_ != machine.platform) add(machine.platform);
  if (!machine.gpu.empty() && !gpu_fits(machine)) add(machine.gpu + " (" + sm(machine.capability) + ")");
  return misfits;
}

std::string Origin::text() const {
  std::string where;
  for (const std::string& target : targets_) where += (where.empty() ? "" : ", ") + target;
  if (targets_.empty()) where = gpu_ + " (" + sm(capability_) + ")";
  return flavour_ + " " + version_ + " for " + where + " on " + platform_;
}

bool Origin::version_fits(const std::string& version) const {
  const std::vector<int> built = leading_numbers(version_);
  const std::vector<int> here = leading_numbers(version);
  if (built == here) return true;
  if (flavour_ != "tensorrt" || !version_compatible_ || built.empty() || here.empty() || here < built) return false;
  return here[0] == built[0] || (built[0] == 10 && here[0] == 11);
}

bool Origin::gpu_fits(const Machine& machine) const {
  if (!targets_.empty()) return std::find(targets_.begin(), targets_.end(), sm(machine.capability)) != targets_.end();
  if (hardware_ == "ampere-plus") return leading_numbers(machine.capability) >= std::vector<int>{8, 0};
  if (hardware_ == "same-compute-capability" || flavour_ != "tensorrt") return capability_ == machine.capability;
  return gpu_ == machine.gpu;
}

}  // namespace resnet_deploy::internal
