//! The rustls configuration of the section `tls_server_config`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion, version,
};

use super::file::{ClientAuth, Pem, Tls, Version};

/// The ALPN names of HTTP/2 and HTTP/1.1.
pub(crate) const H2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// CBC suites, which Go supports and rustls does not because of their weaknesses.
const CBC_SUITES: &[&str] = &[
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// The PEM files of a configuration.
#[derive(PartialEq, Eq)]
pub(super) struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Material {
    /// Reads the files that the section names.
    pub(super) fn read(tls: &Tls, read: impl Fn(&Path) -> Result<Vec<u8>, String>) -> Result<Self, String> {
        let bytes = |name: &str, pem: &Pem| match pem {
            Pem::File(path) => read(path).map_err(|reason| format!("{name}_file: {reason}")),
            Pem::Inline(text) => Ok(text.clone().into_bytes()),
        };
        Ok(Self {
            cert: bytes("cert", &tls.cert)?,
            key: bytes("key", &tls.key)?,
            client_ca: tls.client_ca.as_ref().map(|pem| bytes("client_ca", pem)).transpose()?,
        })
    }
}

/// Creates the server configuration.
pub(super) fn server_config(
    tls: &Tls,
    material: &Material,
    http2: bool,
) -> Result<Arc<ServerConfig>, String> {
    let certificates = certificates(&material.cert).map_err(|reason| format!("cert: {reason}"))?;
    let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(|_| "key: no private key in PEM")?;
    let (provider, versions) = provider(tls)?;
    let provider = Arc::new(provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?;
    let builder = match client_certificates(tls, material, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| format!("cert and key do not match: {error}"))?;
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    config.alpn_protocols = if http2 { vec![H2.into(), HTTP_1.into()] } else { vec![HTTP_1.into()] };
    Ok(Arc::new(config))
}

/// Settings of a section that are not supported and ignored, for the log.
pub(super) fn unsupported_settings(tls: &Tls) -> Vec<String> {
    let suites = tls.cipher_suites.iter().filter(|name| CBC_SUITES.contains(&name.as_str()));
    let curves = tls.curves.iter().filter(|name| *name == "CurveP521");
    let versions = match tls.min_version {
        Version::Tls10 | Version::Tls11 => Some("versions below TLS12".to_owned()),
        Version::Tls12 | Version::Tls13 => None,
    };
    suites.chain(curves).cloned().chain(versions).collect()
}

/// The cipher suites, key exchange groups and versions that the section allows.
fn provider(tls: &Tls) -> Result<(CryptoProvider, Vec<&'static SupportedProtocolVersion>), String> {
    let mut provider = ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let known = provider.cipher_suites.clone();
        let find = |name: &str| {
            // rustls has the version in the names of TLS 1.3 suites.
            known.iter().find(|suite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_") == name)
        };
        // TLS 1.3 suites are not configurable, as in Go.
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        for name in &tls.cipher_suites {
            match find(name) {
                Some(suite) if suite.tls13().is_none() => provider.cipher_suites.push(*suite),
                Some(_) => {}
                None if CBC_SUITES.contains(&name.as_str()) => {}
                None => {
                    let names = known.iter().filter(|suite| suite.tls13().is_none());
                    let names: Vec<_> = names.map(|suite| format!("{:?}", suite.suite())).collect();
                    return Err(format!("cipher_suites: {name:?} is none of {}", names.join(", ")));
                }
            }
        }
    }
    if !tls.curves.is_empty() {
        provider.kx_groups.clear();
        for name in &tls.curves {
            match name.as_str() {
                "X25519" => provider.kx_groups.push(ring::kx_group::X25519),
                "CurveP256" => provider.kx_groups.push(ring::kx_group::SECP256R1),
                "CurveP384" => provider.kx_groups.push(ring::kx_group::SECP384R1),
                "CurveP521" => {}
                other => {
                    return Err(format!(
                        "curve_preferences: {other:?} is none of X25519, CurveP256, CurveP384"
                    ));
                }
            }
        }
        if provider.kx_groups.is_empty() {
            return Err("curve_preferences: CurveP521 alone is not supported; add CurveP384".into());
        }
    }
    let has_suites = provider.cipher_suites.iter().any(|suite| suite.tls13().is_none());
    let mut versions = Vec::new();
    if tls.max_version >= Version::Tls13 {
        versions.push(&version::TLS13);
    }
    if tls.min_version <= Version::Tls12 && has_suites {
        versions.push(&version::TLS12);
    }
    if versions.is_empty() {
        return Err("cipher_suites: none of these is supported with max_version: TLS12".into());
    }
    Ok((provider, versions))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("no certificate in PEM".into()),
        Err(error) => Err(format!("not PEM: {error}")),
    }
}

fn client_certificates(
    tls: &Tls,
    material: &Material,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ClientCertificates>, String> {
    let mandatory = matches!(tls.client_auth, ClientAuth::RequireAny | ClientAuth::RequireAndVerify);
    let chain = match tls.client_auth {
        ClientAuth::None => return Ok(None),
        ClientAuth::Request | ClientAuth::RequireAny => None,
        ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify => {
            let mut roots = RootCertStore::empty();
            let pem = material.client_ca.as_deref().unwrap_or_default();
            for certificate in certificates(pem).map_err(|reason| format!("client_ca: {reason}"))? {
                roots.add(certificate).map_err(|error| format!("client_ca: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            Some(verifier.build().map_err(|error| format!("client_ca: {error}"))?)
        }
    };
    Ok(Some(ClientCertificates {
        chain,
        mandatory,
        sans: tls.client_allowed_sans.clone(),
        provider: Arc::clone(provider),
    }))
}

/// Verifies client certificates as Go does, and their names.
#[derive(Debug)]
struct ClientCertificates {
    /// None if any certificate is accepted.
    chain: Option<Arc<dyn ClientCertVerifier>>,
    mandatory: bool,
    sans: Option<Vec<String>>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertificates {
    /// Whether one of the certificate's names is allowed; the comparison is exact.
    fn has_allowed_name(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let Some(sans) = &self.sans else { return Ok(true) };
        let certificate = webpki::EndEntityCert::try_from(certificate)
            .map_err(|_| Error::from(CertificateError::BadEncoding))?;
        let allowed = |name: &str| sans.iter().any(|san| san == name);
        let addresses = sans.iter().filter_map(|san| san.parse::<std::net::IpAddr>().ok());
        let has_address = |address: std::net::IpAddr| {
            let name = ServerName::IpAddress(IpAddr::from(address));
            certificate.verify_is_valid_for_subject_name(&name).is_ok()
        };
        Ok(certificate.valid_dns_names().any(allowed)
            || certificate.valid_uri_names().any(allowed)
            || addresses.into_iter().any(has_address))
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(certificate, intermediates, now)?;
        }
        if self.has_allowed_name(certificate)? {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::*;

    fn section(more: &str) -> Tls {
        let text = format!("tls_server_config: {{cert: c, key: k, {more}}}");
        parse(text.as_bytes(), Path::new("/")).unwrap().tls.unwrap()
    }

    fn suites(more: &str) -> Result<(Vec<String>, usize), String> {
        let (provider, versions) = provider(&section(more))?;
        Ok((
            provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect(),
            versions.len(),
        ))
    }

    #[test]
    fn suites_are_used_in_the_configured_order_and_tls_1_3_suites_always() {
        let chosen = "cipher_suites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, \
                      TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]";
        let (names, versions) = suites(chosen).unwrap();
        let of_tls_1_2: Vec<_> = names.iter().filter(|name| !name.starts_with("TLS13_")).collect();
        assert_eq!(
            of_tls_1_2,
            ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]
        );
        assert_eq!((names.len(), versions), (5, 2));
        assert_eq!(unsupported_settings(&section(chosen)), ["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]);
        assert!(suites("cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]").unwrap_err().contains("RC4"));
    }

    #[test]
    fn a_version_without_a_suite_is_disabled() {
        assert_eq!(suites("cipher_suites: [TLS_AES_128_GCM_SHA256]").unwrap().1, 1);
        assert_eq!(suites("min_version: TLS13").unwrap().1, 1);
        assert_eq!(suites("min_version: TLS10").unwrap().1, 2);
        let none = "max_version: TLS12, cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]";
        assert!(suites(none).unwrap_err().contains("max_version"));
    }

    #[test]
    fn groups_are_used_in_the_configured_order() {
        let (provider, _) = provider(&section("curve_preferences: [CurveP384, X25519, CurveP521]")).unwrap();
        let names: Vec<_> = provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect();
        assert_eq!(names, ["secp384r1", "X25519"]);
        for (curves, part) in [("CurveP521", "CurveP384"), ("Curve25519", "X25519")] {
            let error = suites(&format!("curve_preferences: [{curves}]")).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_invalid_certificate_or_key_is_reported() {
        let tls = section("min_version: TLS13");
        let material = Material::read(&tls, |_| unreachable!()).unwrap();
        assert_eq!(server_config(&tls, &material, true).unwrap_err(), "cert: no certificate in PEM");
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let material = Material { cert: broken.into(), ..material };
        assert!(server_config(&tls, &material, true).unwrap_err().starts_with("cert: not PEM"));
    }
}
