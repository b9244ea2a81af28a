//! Knocking at a server in a guest: HTTP and HTTPS side by side, short, and believing nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// How long a server has to answer; an emulated guest needs most of a second for a TLS handshake.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The longest status line that is read, in bytes.
const MAX_LINE: usize = 256;

/// How a web server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// A web server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Web {
    pub(super) scheme: Scheme,
    pub(super) status: u16,
}

/// Whether a web server answers there. Many that speak HTTPS answer plain HTTP, too, with a complaint:
/// HTTPS counts where both do.
pub(super) async fn knock(at: SocketAddr, host: &str) -> Option<Web> {
    let in_time = |scheme| async move {
        let asking = ask(at, host, scheme);
        let status = tokio::time::timeout(PATIENCE, asking)
            .await
            .ok()
            .flatten()?;
        Some(Web { scheme, status })
    };
    let (http, https) = tokio::join!(in_time(Scheme::Http), in_time(Scheme::Https));
    https.or(http)
}

async fn ask(at: SocketAddr, host: &str, scheme: Scheme) -> Option<u16> {
    let stream = TcpStream::connect(at).await.ok()?;
    match scheme {
        Scheme::Http => get(stream, host).await,
        Scheme::Https => {
            let name = ServerName::try_from(host.to_owned()).ok()?;
            let connector = TlsConnector::from(config()?);
            get(connector.connect(name, stream).await.ok()?, host).await
        }
    }
}

/// The status of the answer to `GET /`.
async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str) -> Option<u16> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: banger\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut line = Vec::with_capacity(MAX_LINE);
    let mut first = stream.take(MAX_LINE as u64);
    while !line.contains(&b'\n') {
        if first.read_buf(&mut line).await.ok()? == 0 {
            break;
        }
    }
    status(&line)
}

/// The status in `HTTP/1.1 200 OK` (RFC 9112, section 4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let digits = rest.get(..3)?;
    let ends = rest.get(3).is_none_or(|byte| b" \r\n".contains(byte));
    let number: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (ends && (100..600).contains(&number)).then_some(number)
}

fn config() -> Option<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .ok()?;
    let config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Some(Arc::new(config))
}

/// Takes any certificate: a sandbox signs its own, nothing is sent that matters, and the question is
/// only whether TLS is spoken.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = client.read(&mut request).await;
                let _ = client.write_all(answer).await;
            }
        });
        at
    }

    #[tokio::test]
    async fn a_web_server_answers_and_others_are_none() {
        let web = knock(server(b"HTTP/1.1 204 No Content\r\n\r\n").await, "demo.vm").await;
        assert_eq!(
            web,
            Some(Web {
                scheme: Scheme::Http,
                status: 204
            })
        );
        for other in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"",
            b"HTTP/1.1 abc\r\n",
            b"HTTP/1.1 99999\r\n",
        ] {
            assert_eq!(knock(server(other).await, "demo.vm").await, None);
        }
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = closed.local_addr().unwrap();
        drop(closed);
        assert_eq!(knock(at, "demo.vm").await, None);
    }

    #[tokio::test]
    async fn one_that_never_answers_or_never_ends_holds_nobody_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let started = std::time::Instant::now();
        assert_eq!(knock(silent.local_addr().unwrap(), "demo.vm").await, None);
        assert!(started.elapsed() < 3 * PATIENCE);
        static FLOOD: [u8; 1 << 20] = [b'x'; 1 << 20];
        assert_eq!(knock(server(&FLOOD).await, "demo.vm").await, None);
    }

    #[tokio::test]
    async fn tls_with_a_certificate_of_its_own_is_https() {
        let made = rcgen::generate_simple_self_signed(vec!["demo.vm".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut tls) = acceptor.accept(client).await {
                        let _ = tls.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        let _ = tls.shutdown().await;
                    }
                });
            }
        });
        let expected = Web {
            scheme: Scheme::Https,
            status: 200,
        };
        assert_eq!(knock(at, "demo.vm").await, Some(expected));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_parser_panic(line: Vec<u8>) {
            let _ = status(&line);
        }

        #[test]
        fn a_status_is_read_where_there_is_one(number in 100_u16..600, reason in "[ -~]{0,20}") {
            let line = format!("HTTP/1.1 {number} {reason}\r\n");
            prop_assert_eq!(status(line.as_bytes()), Some(number));
        }
    }
}
