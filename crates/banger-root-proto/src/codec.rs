//! One frame, one datagram. (The helper's author fills this in.)
