// Packed dense convolutions with fewer products than weights, as Python holds them: called as PackedConv is, across the lanes only.
#pragma once

#include <nanobind/nanobind.h>

namespace rarefy {

void bind_winograd(nanobind::module_& m);

}  // namespace rarefy
