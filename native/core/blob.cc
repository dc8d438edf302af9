#include "core/blob.h"

#include <stdexcept>

namespace rarefy {
namespace {

constexpr char magic[8] = {'r', 'a', 'r', 'e', 'f', 'y', 'W', '\n'};

[[noreturn]] void refuse(const std::string& why) {
  throw std::invalid_argument("packed bytes: " + why + "; throw them away and pack the weight again");
}

blob::Header header_of(const std::string& kernel, std::size_t bytes, std::uint64_t sum) {
  blob::Header header{};
  if (kernel.size() >= sizeof header.kernel) refuse("the name " + kernel + " is too long");
  std::memcpy(header.magic, magic, sizeof magic);
  std::memcpy(header.kernel, kernel.data(), kernel.size());
  header.version = blob_version;
  header.bytes = bytes;
  header.sum = sum;
  return header;
}

std::uint64_t word_at(const std::uint8_t* bytes) {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

}  // namespace

std::uint64_t checksum(const std::uint8_t* bytes, std::size_t size) noexcept {
  constexpr std::size_t lanes = 8;  // apart, so that the multiplications do not wait for each other
  constexpr std::uint64_t odd = 0x9e3779b97f4a7c15u;
  std::uint64_t sums[lanes];
  for (std::size_t i = 0; i < lanes; ++i) sums[i] = size + odd * (i + 1);
  const auto mix = [](std::uint64_t sum, std::uint64_t word) {
    sum = (sum ^ word) * odd;
    return sum ^ sum >> 32;
  };
  std::size_t at = 0;
  for (; at + 8 * lanes <= size; at += 8 * lanes)
    for (std::size_t i = 0; i < lanes; ++i) sums[i] = mix(sums[i], word_at(bytes + at + 8 * i));
  std::uint64_t all = 0;
  for (const std::uint64_t sum : sums) all = mix(all, sum);
  for (; at < size; ++at) all = mix(all, bytes[at]);
  return all;
}

void BlobWriter::copy(const void* from, std::size_t bytes) {
  if (to_ != nullptr && bytes > 0) std::memcpy(to_ + at_, from, bytes);
  at_ += bytes;
}

void BlobWriter::pad() {
  const std::size_t next = blob::aligned(at_);
  if (to_ != nullptr) std::memset(to_ + at_, 0, next - at_);
  at_ = next;
}

std::size_t BlobWriter::finish(const std::string& kernel) {
  pad();
  if (to_ == nullptr) return at_;
  const blob::Header header = header_of(kernel, at_, checksum(to_ + sizeof(blob::Header), at_ - sizeof(blob::Header)));
  std::memcpy(to_, &header, sizeof header);
  return at_;
}

BlobReader::BlobReader(const std::uint8_t* bytes, std::size_t size, const std::string& kernel) : bytes_(bytes), size_(size) {
  if (reinterpret_cast<std::uintptr_t>(bytes) % blob_line != 0) refuse("they do not begin on a cache line");
  if (size < sizeof(blob::Header)) refuse("they are cut off");
  blob::Header header;
  std::memcpy(&header, bytes, sizeof header);
  if (std::memcmp(header.magic, magic, sizeof magic) != 0) refuse("they are no packed weight");
  if (header.version != blob_version) refuse("they are of version " + std::to_string(header.version));
  if (header.bytes != size) refuse("they are cut off, or run on");
  const blob::Header expected = header_of(kernel, size, checksum(bytes + sizeof header, size - sizeof header));
  if (std::memcmp(header.kernel, expected.kernel, sizeof header.kernel) != 0) refuse("they are not for kernel " + kernel);
  if (header.sum != expected.sum) refuse("they were altered");
}

void BlobReader::finish() const {
  if (blob::aligned(at_) != size_) refuse("they run on");
}

void BlobReader::require_left(std::size_t count, std::size_t each) const {
  if (at_ > size_ || count > (size_ - at_) / each) refuse("an array ends behind them");
}

}  // namespace rarefy
