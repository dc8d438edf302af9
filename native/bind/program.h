// Programs as Python builds and runs them.
#pragma once

#include <nanobind/nanobind.h>

namespace rarefy {

void bind_program(nanobind::module_& m);

}  // namespace rarefy
