// A map by name whose copies share what is the same in them.
#ifndef GATEWAY_COMMON_BASE_PERSISTENT_MAP_H_
#define GATEWAY_COMMON_BASE_PERSISTENT_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/hash.h"

namespace gateway {

// A hash map in small buckets. A copy shares every bucket with the original, so it costs an eighth of a pointer for
// each entry, and a change copies one bucket. Ten thousand names are copied in some 10 us.
//
// What is shared is never written: a bucket is changed in place only if no other map has it. So a map that is changed
// on one thread while others read copies of it must be a copy of one that stays alive until the changes are done (the
// version that it is derived from). Values are copied with their bucket: let them be pointers, or small.
template <typename Value>
class PersistentMap {
 public:
  struct Entry {
    std::string name;
    Value value;
  };

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // Null: there is none. Valid until the map is changed.
  const Value* Find(std::string_view name) const {
    if (size_ == 0) return nullptr;
    const uint32_t hash = HashOf(name);
    const Bucket& bucket = *buckets_[hash & (buckets_.size() - 1)];
    const size_t at = bucket.IndexOf(name, hash);
    return at == kAbsent ? nullptr : &bucket.entries[at].value;
  }
  bool Contains(std::string_view name) const { return Find(name) != nullptr; }

  // The value of `name`, to be changed; a new one if there is none. Valid until the map is changed again.
  Value& Edit(std::string_view name) {
    const uint32_t hash = HashOf(name);
    if (size_ >= buckets_.size() * kEntriesPerBucket) Grow();
    Bucket& bucket = Own(hash);
    const size_t at = bucket.IndexOf(name, hash);
    if (at != kAbsent) return bucket.entries[at].value;
    ++size_;
    bucket.hashes.push_back(hash);
    bucket.entries.push_back({std::string(name), Value()});
    return bucket.entries.back().value;
  }
  void Put(std::string_view name, Value value) { Edit(name) = std::move(value); }

  // False: there is none.
  bool Erase(std::string_view name) {
    if (!Contains(name)) return false;
    const uint32_t hash = HashOf(name);
    Bucket& bucket = Own(hash);
    const size_t at = bucket.IndexOf(name, hash);
    bucket.hashes[at] = bucket.hashes.back();
    bucket.hashes.pop_back();
    if (at + 1 != bucket.entries.size()) bucket.entries[at] = std::move(bucket.entries.back());
    bucket.entries.pop_back();
    --size_;
    return true;
  }

  // Calls `visit` with every entry, in no particular order, until it returns false. Whether it was never false.
  template <typename Visit>
  bool ForEach(Visit visit) const {
    for (const std::shared_ptr<Bucket>& bucket : buckets_) {
      for (const Entry& entry : bucket->entries) {
        if (!visit(entry)) return false;
      }
    }
    return true;
  }

 private:
  static constexpr size_t kEntriesPerBucket = 8;  // on average, at most
  static constexpr size_t kAbsent = ~size_t{0};
  // The hashes are compared first, side by side, so that a miss reads no name.
  struct Bucket {
    std::vector<uint32_t> hashes;
    std::vector<Entry> entries;
    size_t IndexOf(std::string_view name, uint32_t hash) const {
      for (size_t i = 0; i < hashes.size(); ++i) {
        if (hashes[i] == hash && entries[i].name == name) return i;
      }
      return kAbsent;
    }
  };

  static uint32_t HashOf(std::string_view name) { return static_cast<uint32_t>(StableHash(name)); }

  Bucket& Own(uint32_t hash) {
    std::shared_ptr<Bucket>& bucket = buckets_[hash & (buckets_.size() - 1)];
    if (bucket.use_count() != 1) bucket = std::make_shared<Bucket>(*bucket);
    return *bucket;
  }

  void Grow() {
    std::vector<std::shared_ptr<Bucket>> wider(buckets_.empty() ? 1 : buckets_.size() * 2);
    for (std::shared_ptr<Bucket>& bucket : wider) bucket = std::make_shared<Bucket>();
    for (const std::shared_ptr<Bucket>& bucket : buckets_) {
      for (size_t i = 0; i < bucket->hashes.size(); ++i) {
        Bucket& to = *wider[bucket->hashes[i] & (wider.size() - 1)];
        to.hashes.push_back(bucket->hashes[i]);
        to.entries.push_back(bucket->entries[i]);
      }
    }
    buckets_ = std::move(wider);
  }

  size_t size_ = 0;
  std::vector<std::shared_ptr<Bucket>> buckets_;  // a power of two, or none
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_PERSISTENT_MAP_H_
