// Every family of kernels, one line each.
#include <stdexcept>

#include "ops/block8.h"
#include "ops/columns.h"
#include "ops/dense.h"
#include "ops/fanin.h"
#include "ops/layout.h"
#include "ops/lookup.h"
#include "ops/matvec.h"
#include "ops/matvec4.h"
#include "ops/neurons.h"
#include "ops/nmg.h"
#include "ops/spmm.h"
#include "ops/spmv.h"

namespace rarefy {

void require_size(const WeightSource& asked, int out, int in) {
  if (out != asked.out || in != asked.in)
    throw std::invalid_argument("packed bytes: a weight of " + std::to_string(out) + " x " + std::to_string(in) +
                                ", but " + std::to_string(asked.out) + " x " + std::to_string(asked.in) + " was asked for");
}

bool Layout::multiply_through(const Layout&, const float*, std::ptrdiff_t, const Ending&, const Ending&, float*, int) const {
  return false;
}

void Layout::multiply8(const Rows8&, const float*, Activation, const Output8&, int) const {
  throw std::logic_error("this kernel does not take 8-bit inputs");
}

void Layout::multiply_rows(const float*, std::ptrdiff_t, const std::int32_t*, int, const float*, float*, int) const {
  throw std::logic_error("this kernel does not compute single rows");
}

const std::vector<Family>& families() {
  static const std::vector<Family> all{
      {dense::entries, dense::make},
      {spmm::entries, spmm::make},
      {spmv::entries, spmv::make},
      {block8::entries, block8::make},
      {matvec::entries, matvec::make},
      {matvec4::entries, matvec4::make},
      {fanin::entries, fanin::make},
      {lookup::entries, lookup::make},
      {nmg::entries, nmg::make},
      {columns::entries, columns::make},
      {neurons::entries, neurons::make},
  };
  return all;
}

}  // namespace rarefy
