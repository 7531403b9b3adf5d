// Text of headers that the gateway writes itself (OutgoingHead::lines): rendered without an allocation once it is warm.
#ifndef GATEWAY_DATAPLANE_HTTP_FIELD_LINES_H_
#define GATEWAY_DATAPLANE_HTTP_FIELD_LINES_H_

#include <charconv>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

namespace gateway::dataplane::http {

// A worker's; used for one step without a wait in it.
class FieldLines {
 public:
  // Begins again, with space for `bytes`: the caller knows a bound. Ends all views.
  void Start(size_t bytes) {
    if (bytes > capacity_) {
      room_.reset(new char[bytes]);
      capacity_ = bytes;
    }
    begin_ = at_ = room_.get();
  }

  FieldLines& operator<<(std::string_view text) {
    std::memcpy(at_, text.data(), text.size());
    at_ += text.size();
    return *this;
  }
  FieldLines& operator<<(uint64_t number) {
    at_ = std::to_chars(at_, at_ + 20, number).ptr;
    return *this;
  }
  void Add(std::string_view name, std::string_view value) { *this << name << ": " << value << "\r\n"; }

  // Where others write; MoveTo says how far they came.
  char* at() const { return at_; }
  void MoveTo(char* end) { at_ = end; }

  // What was written since Start, or since the last Cut.
  std::string_view Cut() {
    const std::string_view text(begin_, static_cast<size_t>(at_ - begin_));
    begin_ = at_;
    return text;
  }

 private:
  std::unique_ptr<char[]> room_;
  size_t capacity_ = 0;
  char* begin_ = nullptr;
  char* at_ = nullptr;
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_FIELD_LINES_H_
