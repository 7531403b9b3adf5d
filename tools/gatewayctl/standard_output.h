// Standard output as gatewayctl writes it.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_STANDARD_OUTPUT_H_
#define GATEWAY_TOOLS_GATEWAYCTL_STANDARD_OUTPUT_H_

#include <unistd.h>

#include <cerrno>
#include <streambuf>

namespace gateway::ctl {

// Standard output, which remembers why it could not be written: std::cout doesn't.
class StandardOutput : public std::streambuf {
 public:
  StandardOutput() { setp(buffer_, buffer_ + sizeof(buffer_)); }
  int error() const { return error_; }  // errno of the first failed write; 0: none

 private:
  int sync() override {
    for (const char* at = pbase(); at < pptr() && error_ == 0;) {
      const ssize_t written = write(STDOUT_FILENO, at, static_cast<size_t>(pptr() - at));
      if (written > 0) at += written;
      if (written < 0 && errno != EINTR) error_ = errno;
    }
    setp(buffer_, buffer_ + sizeof(buffer_));
    return error_ == 0 ? 0 : -1;
  }

  int overflow(int byte) override {
    if (sync() != 0) return traits_type::eof();
    return traits_type::eq_int_type(byte, traits_type::eof()) ? 0 : sputc(traits_type::to_char_type(byte));
  }

  char buffer_[32 << 10];
  int error_ = 0;
};

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_STANDARD_OUTPUT_H_
