/* Loaded before the C library (LD_PRELOAD): counts the bytes that malloc and its like have given and not got back.

   An allocation counts whole, touched or not. Under AddressSanitizer, whose malloc comes first, its hooks count. */

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

extern int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
                                                     void (*)(const volatile void *)) __attribute__((weak));
extern size_t __sanitizer_get_allocated_size(const volatile void *) __attribute__((weak));

static atomic_long held, most;

static void add(long bytes) {
  long now = atomic_fetch_add_explicit(&held, bytes, memory_order_relaxed) + bytes;
  long seen = atomic_load_explicit(&most, memory_order_relaxed);
  while (now > seen && !atomic_compare_exchange_weak_explicit(&most, &seen, now, memory_order_relaxed,
                                                              memory_order_relaxed)) {
  }
}

static void *given(void *place) {
  if (place) add((long)malloc_usable_size(place));
  return place;
}

/* Begins anew: the bytes that are held now, which are the most so far. */
long fuzz_begin(void) {
  long now = atomic_load_explicit(&held, memory_order_relaxed);
  atomic_store_explicit(&most, now, memory_order_relaxed);
  return now;
}

long fuzz_most(void) { return atomic_load_explicit(&most, memory_order_relaxed); }

void *malloc(size_t size) { return given(__libc_malloc(size)); }

void *calloc(size_t count, size_t size) { return given(__libc_calloc(count, size)); }

void *realloc(void *place, size_t size) {
  long before = place ? (long)malloc_usable_size(place) : 0;
  void *moved = __libc_realloc(place, size);
  if (moved) {
    add((long)malloc_usable_size(moved) - before);
  } else if (size == 0) {
    add(-before);
  }
  return moved;
}

void *memalign(size_t alignment, size_t size) { return given(__libc_memalign(alignment, size)); }

void *aligned_alloc(size_t alignment, size_t size) { return given(__libc_memalign(alignment, size)); }

int posix_memalign(void **place, size_t alignment, size_t size) {
  void *found = given(__libc_memalign(alignment, size));
  if (!found) return ENOMEM;
  *place = found;
  return 0;
}

void free(void *place) {
  if (place) add(-(long)malloc_usable_size(place));
  __libc_free(place);
}

static void hooked(const volatile void *place, size_t size) {
  if (place) add((long)size);
}

static void unhooked(const volatile void *place) {
  if (place) add(-(long)__sanitizer_get_allocated_size(place));
}

__attribute__((constructor)) static void install(void) {
  if (__sanitizer_install_malloc_and_free_hooks) __sanitizer_install_malloc_and_free_hooks(hooked, unhooked);
}
