// The index of a sparse weight in training, as Python holds it.
#pragma once

#include <nanobind/nanobind.h>

namespace rarefy {

void bind_train(nanobind::module_& m);

}  // namespace rarefy
