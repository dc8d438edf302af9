// Floats from places that 16 bits name, by a load each: Zen 4 takes half again as long for the instruction that gathers,
// and CPUs whose microcode keeps gathers from leaking data take longer still.
inline __m128 picked4(const float* x, const unsigned char* places) {
  unsigned long long at;
  __builtin_memcpy(&at, places, sizeof at);
  __m128 v = _mm_load_ss(x + static_cast<unsigned short>(at));
  v = _mm_insert_ps(v, _mm_load_ss(x + static_cast<unsigned short>(at >> 16)), 0x10);
  v = _mm_insert_ps(v, _mm_load_ss(x + static_cast<unsigned short>(at >> 32)), 0x20);
  return _mm_insert_ps(v, _mm_load_ss(x + (at >> 48)), 0x30);
}
inline __m256 picked8(const float* x, const unsigned char* places) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(picked4(x, places)), picked4(x, places + 8), 1);
}
