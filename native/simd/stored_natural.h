// Columns are stored in their natural order; see simd/stored_amx.h for the other.
constexpr bool interleaved = false;

template <Stored stored, int tokens, bool finite>
inline const unsigned char* add_interleaved(const unsigned char* at, const float* const (&)[tokens], std::ptrdiff_t, Vec (&)[tokens]) {
  return at;
}
