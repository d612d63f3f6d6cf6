// SHA-256 (FIPS 180-4).
#pragma once

#include <string>
#include <string_view>

namespace resnet_deploy::internal {

// Hexadecimal, as Python's hexdigest.
std::string sha256(std::string_view data);

}  // namespace resnet_deploy::internal
