// The decoder as Python builds and calls it.
#pragma once

#include <nanobind/nanobind.h>

namespace rarefy {

void bind_decoder(nanobind::module_& m);

}  // namespace rarefy
