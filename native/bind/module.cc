// What Python sees of the native core: low level and unchecked where rarefy.ops has checked. Addresses travel as
// integers (Tensor.data_ptr()), which costs a tenth of exchanging a tensor. The lock is released during arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <tuple>

#include "bind/block.h"
#include "bind/conv.h"
#include "bind/conv_direct.h"
#include "bind/depthwise.h"
#include "bind/decoder.h"
#include "bind/packed.h"
#include "bind/program.h"
#include "bind/train.h"
#include "bind/winograd.h"
#include "core/denormals.h"
#include "core/features.h"
#include "ops/csr.h"
#include "ops/parallel.h"
#include "ops/quantise.h"

namespace nb = nanobind;
using namespace nb::literals;
using rarefy::at;

namespace {

nb::dict features() {
  const rarefy::Features& f = rarefy::features();
  nb::dict out;
  out["avx2"] = f.avx2;
  out["fma"] = f.fma;
  out["bmi2"] = f.bmi2;
  out["avx512f"] = f.avx512f;
  out["avx512bw"] = f.avx512bw;
  out["avx512dq"] = f.avx512dq;
  out["avx512vl"] = f.avx512vl;
  out["avx512_vnni"] = f.avx512_vnni;
  out["avx512_vbmi"] = f.avx512_vbmi;
  out["avx512_vbmi2"] = f.avx512_vbmi2;
  out["avx512_bf16"] = f.avx512_bf16;
  out["amx_bf16"] = f.amx_bf16;
  out["amx_int8"] = f.amx_int8;
  return out;
}

// call(i) for every i in [0, count), several at once: what it calls natively must release the lock and keep to one thread.
void for_each(std::size_t count, int threads, const nb::callable& call) {
  std::exception_ptr wrong;
  std::mutex guard;
  const nb::gil_scoped_release unlocked;
  rarefy::parallel_for(count, threads, [&](std::size_t i) {
    const nb::gil_scoped_acquire locked;
    try {
      call(i);
    } catch (...) {
      const std::lock_guard<std::mutex> hold(guard);
      if (wrong == nullptr) wrong = std::current_exception();
    }
  });
  if (wrong != nullptr) {
    const nb::gil_scoped_acquire locked;
    std::rethrow_exception(wrong);
  }
}

rarefy::csr::Matrix matrix(int rows, int width, std::uintptr_t offsets, std::uintptr_t columns, std::uintptr_t values,
                           std::int64_t entries) {
  const rarefy::csr::Matrix m{rows, width, at<std::int64_t>(offsets), at<std::int32_t>(columns), at<float>(values)};
  rarefy::csr::check(m, entries);
  return m;
}

void csr_multiply(int rows, int width, std::uintptr_t offsets, std::uintptr_t columns, std::uintptr_t values,
                  std::int64_t entries, std::uintptr_t x, std::int64_t tokens, std::uintptr_t bias, std::uintptr_t y,
                  int threads) {
  rarefy::csr::multiply(matrix(rows, width, offsets, columns, values, entries), at<float>(x), tokens, at<float>(bias),
                        at<float>(y), threads);
}

void csr_multiply_transposed(int rows, int width, std::uintptr_t offsets, std::uintptr_t columns, std::uintptr_t values,
                             std::int64_t entries, std::uintptr_t dy, std::int64_t tokens, std::uintptr_t dx,
                             int threads) {
  rarefy::csr::multiply_transposed(matrix(rows, width, offsets, columns, values, entries), at<float>(dy), tokens,
                                   at<float>(dx), threads);
}

void csr_sample(int rows, int width, std::uintptr_t offsets, std::uintptr_t columns, std::uintptr_t values,
                std::int64_t entries, std::uintptr_t dy, std::uintptr_t x, std::int64_t tokens, std::uintptr_t dvalues,
                int threads) {
  rarefy::csr::sample(matrix(rows, width, offsets, columns, values, entries), at<float>(dy), at<float>(x), tokens,
                      at<float>(dvalues), threads);
}

void quantize_rows(std::uintptr_t x, std::int64_t tokens, int features, std::uintptr_t values, std::uintptr_t scale,
                   std::uintptr_t zero, int threads) {
  rarefy::quantise::rows(at<float>(x), tokens, features, at<std::uint8_t>(values), features, at<float>(scale),
                         at<std::int32_t>(zero), threads);
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // a weight that a module-level model holds at exit is no leak; tools/leakcheck.py turns them on
  m.doc() = "rarefy's native core; use rarefy.ops";
  m.def("features", &features);
  m.def("isa", [] { return std::string(rarefy::isa_name(rarefy::allowed_isa())); });
  m.def("thread_pool", [] { return std::string(rarefy::thread_pool_name()); });
  m.def("floating_point_state", &rarefy::floating_point_state);
  m.def("kernels", &rarefy::listing, "(name, op, isa, weights, activations, rows, tokens, depth) of every kernel compiled in");
  m.def("set_leak_warnings", [](bool on) { nb::set_leak_warnings(on); });
  m.def("live_objects", [] { return rarefy::Packed::live(); });
  nb::class_<rarefy::Mapping>(m, "Mapping", "A file's own pages, read-only and shared by all processes that map it.")
      .def(nb::init<const std::string&>(), nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("size", &rarefy::Mapping::size);
  using Mapped = std::shared_ptr<rarefy::Mapping>;
  nb::class_<rarefy::Packed>(m, "Packed")
      .def(nb::init<std::uintptr_t, std::uintptr_t, std::uintptr_t, int, int, float, int, std::uintptr_t, std::int64_t,
                    std::int64_t, const std::string&>(),
           "weight"_a, "codes"_a, "scales"_a, "groups"_a, "bits"_a, "input_scale"_a, "input_zero"_a,
           "input_factors"_a, "out"_a, "in"_a, "kernel"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(nb::init<Mapped, std::size_t, std::size_t, float, int, std::uintptr_t, std::int64_t, std::int64_t,
                    const std::string&>(),
           "file"_a, "at"_a, "bytes"_a, "input_scale"_a, "input_zero"_a, "input_factors"_a, "out"_a, "in"_a, "kernel"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("save", &rarefy::Packed::save, nb::call_guard<nb::gil_scoped_release>())
      .def("multiply8", &rarefy::Packed::multiply8, nb::call_guard<nb::gil_scoped_release>())
      .def("multiply_rows", &rarefy::Packed::multiply_rows, nb::call_guard<nb::gil_scoped_release>())
      .def("multiply_through", &rarefy::Packed::multiply_through, nb::call_guard<nb::gil_scoped_release>())
      .def("multiply", &rarefy::Packed::multiply, nb::call_guard<nb::gil_scoped_release>())
      .def("unpack", &rarefy::Packed::unpack, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("nnz", &rarefy::Packed::nnz)
      .def_prop_ro("nbytes", &rarefy::Packed::bytes);
  nb::class_<rarefy::PackedConv>(m, "PackedConv")
      .def(nb::init<std::uintptr_t, const rarefy::PackedConv::Sizes&, const rarefy::PackedConv::Steps&, const std::string&>(),
           "weight"_a, "sizes"_a, "steps"_a, "kernel"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(nb::init<Mapped, std::size_t, std::size_t, const rarefy::PackedConv::Sizes&, const rarefy::PackedConv::Steps&,
                    const std::string&>(),
           "file"_a, "at"_a, "bytes"_a, "sizes"_a, "steps"_a, "kernel"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("save", &rarefy::PackedConv::save, nb::call_guard<nb::gil_scoped_release>())
      .def("convolve", &rarefy::PackedConv::convolve, nb::call_guard<nb::gil_scoped_release>())
      .def("convolve_pooled", &rarefy::PackedConv::convolve_pooled, nb::call_guard<nb::gil_scoped_release>())
      .def("convolve_across", &rarefy::PackedConv::convolve_across, nb::call_guard<nb::gil_scoped_release>())
      .def("unpack", &rarefy::PackedConv::unpack, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("nnz", &rarefy::PackedConv::nnz)
      .def_prop_ro("nbytes", &rarefy::PackedConv::bytes);
  rarefy::bind_conv8(m);
  rarefy::bind_depthwise(m);
  rarefy::bind_conv_direct(m);
  rarefy::bind_winograd(m);
  m.def("conv_kernels", &rarefy::conv_listing, "(name, isa, rows, pixels, together) of every convolution kernel");
  m.def("turn_across", &rarefy::turn_across, nb::call_guard<nb::gil_scoped_release>());
  m.def("lanes_across", &rarefy::lanes_across);
  m.def("for_each", &for_each);
  m.def("max_pool", &rarefy::max_pool, nb::call_guard<nb::gil_scoped_release>());
  m.def("csr_multiply", &csr_multiply, nb::call_guard<nb::gil_scoped_release>());
  m.def("csr_multiply_transposed", &csr_multiply_transposed, nb::call_guard<nb::gil_scoped_release>());
  m.def("csr_sample", &csr_sample, nb::call_guard<nb::gil_scoped_release>());
  m.def("quantize_rows", &quantize_rows, nb::call_guard<nb::gil_scoped_release>());
  m.def("add_layer_norm", &rarefy::add_layer_norm, nb::call_guard<nb::gil_scoped_release>());
  m.def("attention", &rarefy::attend, nb::call_guard<nb::gil_scoped_release>());
  rarefy::bind_program(m);
  rarefy::bind_decoder(m);
  rarefy::bind_train(m);
}
