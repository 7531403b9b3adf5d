// The part of Boost.Asio's TLS that is compiled once (BOOST_ASIO_SEPARATE_COMPILATION).
#include "boost/asio/ssl/impl/src.hpp"
