// How the library fails: with an Error, whose code is an exit code of resnet-deploy.
#pragma once

#include <string>

#include "resnet_deploy.h"

namespace resnet_deploy::internal {

// What is done about a bundle that cannot be used, at the end of a message.
constexpr const char* kRemake = ". Make the bundle again with `resnet-deploy export ... --overwrite`";

[[noreturn]] inline void throw_input_error(const std::string& message) { throw Error(Exit::input, message); }
[[noreturn]] inline void throw_machine_error(const std::string& message) { throw Error(Exit::machine, message); }

}  // namespace resnet_deploy::internal
