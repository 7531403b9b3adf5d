// A client's connection: one exchange after the other, until either side has had enough.
#ifndef GATEWAY_DATAPLANE_SERVER_CONNECTION_H_
#define GATEWAY_DATAPLANE_SERVER_CONNECTION_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/http/connection.h"
#include "dataplane/net/task.h"
#include "dataplane/server/listener.h"

namespace gateway::dataplane {

class Worker;

// What one connection too many is told.
inline constexpr std::string_view kTooManyConnections =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 83\r\n"
    "X-Gateway-Reason: overloaded\r\nConnection: close\r\n\r\n"
    R"({"error": "Service temporarily unavailable", "code": 503, "reason": "overloaded"})"
    "\r\n";

// Lives on one worker, from accept to close; owns itself. Between two requests it holds no buffer.
class ClientConnection : private http::Connection {
 public:
  // How much of what a client still sends is read and thrown away, and for how long, before a connection that ended
  // early is closed: closed at once, the client's unread bytes would reset it, and the answer could be lost (RFC 9112,
  // section 9.6).
  static constexpr size_t kLingerBytesMax = 4 << 20;
  static constexpr std::chrono::milliseconds kLingerTime{2000};

  // Takes over an accepted, non-blocking descriptor. `proxy_header`: what it begins with where the peer is a trusted
  // proxy.
  static void Start(Worker* worker, int fd, const sockaddr_storage& address, ProxyHeaderMode proxy_header);
  ~ClientConnection();

  // Ends it if it is between two requests. False: it is not.
  bool CloseIfIdle() {
    if (!idle_ || !socket.ProbeQuiet()) return false;  // what has come in the meantime is served first
    socket.Cancel();
    return true;
  }
  // Ends the waits for services: of requests in flight nobody waits for a response any more.
  void AbandonWaits() { socket.AbandonWaits(); }
  // Whether a request has been answered on it.
  bool served() const { return served_; }

  ClientConnection* previous = nullptr;  // the worker's list
  ClientConnection* next = nullptr;

 private:
  ClientConnection(Worker* worker, const sockaddr_storage& address, const in6_addr& peer_address);
  static Detached Run(std::unique_ptr<ClientConnection> self, ProxyHeaderMode proxy_header);
  bool CountAddress();                               // false: this address has too many already
  Task<bool> ReadProxyHeader(ProxyHeaderMode mode);  // false: the connection is of no use
  Task<void> RefuseAndLinger(std::string_view answer);
  Task<void> Serve();
  Task<bool> ServeExchange();  // false: there was no request
  Task<void> Linger();

  Worker* const worker_;
  bool counted_ = false;  // by its address
  bool idle_ = false;
  bool served_ = false;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_CONNECTION_H_
