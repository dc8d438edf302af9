#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/elementwise/contract.h"
#include "kernels/norm/contract.h"
#include "ops/parallel.h"
#include "ops/split.h"
#include "program/rows8.h"
#include "program/steps.h"

namespace rarefy::program {
namespace {

constexpr std::int64_t all_in_range = -1;

// A table at the addresses of a call.
struct Source {
  const float* values;
  const std::int64_t* rows;
  std::ptrdiff_t period;
  std::int64_t entries, first;
  Table::Index index;

  std::int64_t entry(std::ptrdiff_t row) const noexcept {
    if (index == Table::Index::constant) return first;
    return index == Table::Index::counting ? row % period : rows[row % period];
  }
};

class Embed : public Instruction {
 public:
  explicit Embed(EmbedOf of)
      : of_(std::move(of)), arithmetic_(elementwise::kernel(allowed_isa())), norm_(norm::kernel(allowed_isa())) {
    if (of_.tables.empty() || of_.tables.size() > most_tables) throw std::invalid_argument("embed: one to four tables");
  }
  const char* kind() const noexcept override { return "embedding"; }
  void run(const Frame& frame) const override {
    Source sources[most_tables];
    for (std::size_t i = 0; i < of_.tables.size(); ++i) {
      const Table& t = of_.tables[i];
      sources[i] = {frame.at<const float>(t.values), frame.at<const std::int64_t>(t.rows), frame.size(t.period),
                    t.entries, t.first, t.index};
    }
    float* const y = frame.at<float>(of_.y);
    const norm::Rows rows{y, nullptr, 0, frame.at<const float>(of_.weight), frame.at<const float>(of_.bias),
                          y, of_.features, of_.eps};
    const Rounding to8(of_.y8, frame);
    const std::ptrdiff_t count = frame.size(of_.rows), share = 8;
    std::atomic<std::int64_t> wrong{all_in_range};
    parallel_for(static_cast<std::size_t>((count + share - 1) / share),
                 threads_for(8.0 * static_cast<double>(count) * of_.features, frame.threads), [&](std::size_t part) {
                   const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(part) * share;
                   const std::ptrdiff_t last = std::min(count, first + share);
                   for (std::ptrdiff_t row = first; row < last; ++row)
                     if (!sum(sources, row, y + row * of_.features)) wrong = row;
                   if (rows.weight != nullptr) norm_.add_layer_norm(rows, first, last);
                   to8.rows(y, of_.features, first, last);
                 });
    if (wrong != all_in_range) throw std::out_of_range(said(sources, wrong));
  }

 private:
  static constexpr std::size_t most_tables = 4;

  // False, with y untouched, where an index is outside its table.
  bool sum(const Source* sources, std::ptrdiff_t row, float* y) const noexcept {
    for (std::size_t i = 0; i < of_.tables.size(); ++i) {
      const std::int64_t entry = sources[i].entry(row);
      if (entry < 0 || entry >= sources[i].entries) return false;
      const float* from = sources[i].values + entry * of_.features;
      if (i == 0) std::memcpy(y, from, sizeof(float) * static_cast<std::size_t>(of_.features));
      else arithmetic_.add(y, from, of_.features, y);
    }
    return true;
  }

  std::string said(const Source* sources, std::ptrdiff_t row) const {
    for (std::size_t i = 0; i < of_.tables.size(); ++i) {
      const std::int64_t entry = sources[i].entry(row);
      if (entry < 0 || entry >= sources[i].entries)
        return "embedding: index " + std::to_string(entry) + " is outside a table of " +
               std::to_string(sources[i].entries) + " rows";
    }
    return "embedding: an index is outside its table";
  }

  EmbedOf of_;
  const elementwise::Kernel& arithmetic_;
  const norm::Kernel& norm_;
};

}  // namespace

Step embed(EmbedOf of) { return std::make_unique<Embed>(std::move(of)); }

}  // namespace rarefy::program
