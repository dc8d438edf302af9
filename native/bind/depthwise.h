// Packed depthwise weights, as Python holds them: called as PackedConv and PackedConv8 are.
#pragma once

#include <nanobind/nanobind.h>

namespace rarefy {

void bind_conv8(nanobind::module_& m);
void bind_depthwise(nanobind::module_& m);

}  // namespace rarefy
