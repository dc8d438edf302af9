// Packed convolutions that read their inputs in place, as Python holds them: called as PackedConv is, across the lanes only.
#pragma once

#include <nanobind/nanobind.h>

namespace rarefy {

void bind_conv_direct(nanobind::module_& m);

}  // namespace rarefy
