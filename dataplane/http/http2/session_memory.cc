#include "dataplane/http/http2/session_memory.h"

#include <cstdlib>
#include <cstring>
#include <limits>

namespace gateway::dataplane::http2 {

struct alignas(16) SessionMemory::Header {
  size_t index;  // its class
  size_t bytes;  // that were asked for
};

SessionMemory::SessionMemory() {
  functions_.mem_user_data = this;
  functions_.malloc = [](size_t size, void* self) { return static_cast<SessionMemory*>(self)->Allocate(size); };
  functions_.free = [](void* block, void* self) { static_cast<SessionMemory*>(self)->Free(block); };
  functions_.calloc = [](size_t count, size_t size, void* self) -> void* {
    if (size > 0 && count > std::numeric_limits<size_t>::max() / size) return nullptr;
    void* block = static_cast<SessionMemory*>(self)->Allocate(count * size);
    if (block != nullptr) std::memset(block, 0, count * size);
    return block;
  };
  functions_.realloc = [](void* block, size_t size, void* self) {
    return static_cast<SessionMemory*>(self)->Reallocate(block, size);
  };
}

SessionMemory::~SessionMemory() {
  for (FreeBlock* block : free_) {
    while (block != nullptr) {
      FreeBlock* const next = block->next;
      std::free(block);
      block = next;
    }
  }
}

size_t SessionMemory::ClassOf(size_t bytes) {
  if (bytes <= kSmallClasses * kStep) return (bytes - 1) / kStep;
  for (size_t i = 0; i < kLargeClasses.size(); ++i) {
    if (bytes <= kLargeClasses[i]) return kSmallClasses + i;
  }
  return kClasses;
}

void* SessionMemory::Allocate(size_t bytes) {
  if (bytes > std::numeric_limits<size_t>::max() - sizeof(Header)) return nullptr;
  const size_t index = ClassOf(bytes + sizeof(Header));
  void* block;
  if (index < kClasses && free_[index] != nullptr) {
    block = free_[index];
    free_[index] = free_[index]->next;
    kept_bytes_ -= BytesOf(index);
  } else {
    block = std::malloc(index < kClasses ? BytesOf(index) : bytes + sizeof(Header));
    if (block == nullptr) return nullptr;
  }
  auto* header = static_cast<Header*>(block);
  header->index = index;
  header->bytes = bytes;
  return header + 1;
}

void SessionMemory::Free(void* block) {
  if (block == nullptr) return;
  Header* const header = static_cast<Header*>(block) - 1;
  const size_t index = header->index;
  if (index >= kClasses || kept_bytes_ + BytesOf(index) > kKeptBytesMax) return std::free(header);
  auto* free_block = reinterpret_cast<FreeBlock*>(header);
  free_block->next = free_[index];
  free_[index] = free_block;
  kept_bytes_ += BytesOf(index);
}

void* SessionMemory::Reallocate(void* block, size_t bytes) {
  if (block == nullptr) return Allocate(bytes);
  Header* const header = static_cast<Header*>(block) - 1;
  if (header->index < kClasses && bytes + sizeof(Header) <= BytesOf(header->index)) {
    header->bytes = bytes;
    return block;
  }
  void* const larger = Allocate(bytes);
  if (larger == nullptr) return nullptr;
  std::memcpy(larger, block, header->bytes < bytes ? header->bytes : bytes);
  Free(block);
  return larger;
}

}  // namespace gateway::dataplane::http2
