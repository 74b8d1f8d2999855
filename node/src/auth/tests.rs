//! Logins and reloads, without a socket.

use super::*;
use crate::config::Secret;
use ed25519_dalek::Signer as _;
use waymeet_core::Subject;

const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A hash that is cheap to verify, so that a test may do so often.
fn cheap(secret: &str) -> String {
    use argon2::password_hash::{PasswordHasher as _, phc::PasswordHash};
    let params = argon2::Params::new(8, 1, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash: PasswordHash = argon2.hash_password_with_salt(secret.as_bytes(), b"0123456789abcdef").unwrap();
    hash.to_string()
}

fn config(text: &str) -> Config {
    Config::from_toml(text, std::path::Path::new("test.toml")).unwrap()
}

fn ada(password: &str) -> String {
    format!("[[auth.users]]\nname = 'ada'\npassword_hash = '{}'\n", cheap(password))
}

struct Node {
    auth: Arc<Auth>,
    policies: Policies,
    metrics: Arc<Metrics>,
}

fn node(text: &str) -> Node {
    let (policies, metrics) = (Policies::default(), Arc::new(Metrics::new()));
    let auth = Arc::new(Auth::new(&config(text), &policies, metrics.clone()).unwrap());
    Node { auth, policies, metrics }
}

async fn login(node: &Node, user: &str, password: &str) -> Result<Arc<User>, LoginError> {
    node.auth.login(Credentials::Password { user, password }, HOME).outcome().await
}

#[tokio::test]
async fn a_password_lets_in_and_its_verdict_is_remembered() {
    let node = node(&ada("hunter2"));
    assert_eq!(login(&node, "ada", "hunter2").await.unwrap().name(), "ada");
    assert_eq!(login(&node, "ada", "hunter3").await.unwrap_err(), LoginError::Wrong);
    assert_eq!(login(&node, "eve", "hunter2").await.unwrap_err(), LoginError::Wrong);
    assert_eq!(login(&node, "ada", "").await.unwrap_err(), LoginError::Wrong);
    let again = node.auth.login(Credentials::Password { user: "ada", password: "hunter2" }, HOME);
    assert!(matches!(again, Attempt::Decided(Ok(_))), "known without another look");
    let unknown = node.auth.login(Credentials::Password { user: "zoe", password: "hunter2" }, HOME);
    assert!(matches!(unknown, Attempt::Pending(_)), "who does not exist is verified like everybody");
    assert!(node.metrics.encode().contains("waymeet_logins_total{outcome=\"accepted\"} 2"));
    assert!(!format!("{:?}", node.auth).contains("argon2id"), "no hash is shown");
}

#[tokio::test]
async fn a_token_lets_in_whoever_has_it() {
    let user = |name: &str, token: &str| {
        format!("[[auth.users]]\nname = '{name}'\ntoken_hash = '{}'\n", cheap(token))
    };
    let node = node(&(user("one", "first") + &user("two", "two:second")));
    let login = |token: &'static str| node.auth.login(Credentials::Token(token), HOME).outcome();
    assert_eq!(login("first").await.unwrap().name(), "one");
    assert_eq!(login("two:second").await.unwrap().name(), "two");
    assert_eq!(login("two:first").await.unwrap_err(), LoginError::Wrong);
    assert_eq!(login("third").await.unwrap_err(), LoginError::Wrong);
}

#[test]
fn an_nkey_signs_this_nonce_and_no_other() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = UserKey::from_bytes(key.verifying_key().to_bytes()).to_string();
    let node = node(&format!("[[auth.users]]\nname = 'robot'\nnkey = '{public}'"));
    let sign = |nonce: &str| key.sign(nonce.as_bytes()).to_bytes();
    let login = |key: &str, signature: &str, nonce: &str| {
        let credentials = Credentials::NKey { key, signature, nonce: nonce.as_bytes() };
        match node.auth.login(credentials, HOME) {
            Attempt::Decided(outcome) => outcome.map(|user| user.name().to_owned()),
            Attempt::Pending(_) => panic!("a signature is cheap to verify"),
        }
    };
    let (first, second) = (nonce(), nonce());
    assert_ne!(first, second);
    for signature in [URL_SAFE_NO_PAD.encode(sign(&first)), STANDARD.encode(sign(&first))] {
        assert_eq!(login(&public, &signature, &first).unwrap(), "robot");
        assert_eq!(login(&public, &signature, &second), Err(LoginError::Wrong), "replayed");
    }
    let other = ed25519_dalek::SigningKey::from_bytes(&[8; 32]);
    let others = UserKey::from_bytes(other.verifying_key().to_bytes()).to_string();
    let signature = URL_SAFE_NO_PAD.encode(other.sign(first.as_bytes()).to_bytes());
    assert_eq!(login(&others, &signature, &first), Err(LoginError::Wrong), "a right signature of nobody's");
    assert_eq!(login(&public, &signature, &first), Err(LoginError::Wrong), "another's signature");
    for (key, signature) in [(&*public, ""), (&*public, "!!!"), ("U", "x"), ("", "")] {
        assert_eq!(login(key, signature, &first), Err(LoginError::Wrong));
    }
}

#[test]
fn a_certificate_s_names_lead_to_a_user() {
    let node = node("[[auth.users]]\nname = 'sensor-7'\ncertificate = 'sensor-7.example'");
    let login = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        match node.auth.login(Credentials::Certificate(&names), HOME) {
            Attempt::Decided(outcome) => outcome.map(|user| user.name().to_owned()),
            Attempt::Pending(_) => panic!("names are cheap to compare"),
        }
    };
    assert_eq!(login(&["CN", "sensor-7.example"]).unwrap(), "sensor-7");
    assert_eq!(login(&["sensor-8.example"]), Err(LoginError::Wrong));
    assert_eq!(login(&[]), Err(LoginError::Wrong));
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_refused_unless_it_is_known() {
    let node = node(&format!("limits.auth.max_failures_per_minute = 3\n{}", ada("hunter2")));
    login(&node, "ada", "hunter2").await.unwrap();
    for _ in 0..3 {
        assert_eq!(login(&node, "ada", "wrong").await.unwrap_err(), LoginError::Wrong);
    }
    assert_eq!(login(&node, "ada", "wrong").await.unwrap_err(), LoginError::TooManyFailures);
    assert_eq!(login(&node, "ada", "other").await.unwrap_err(), LoginError::TooManyFailures);
    assert_eq!(node.metrics.limits_reached(Limit::AuthMaxFailuresPerMinute), 2);
    login(&node, "ada", "hunter2").await.expect("whoever was right before is not locked out by a neighbour");
    let elsewhere = "192.0.2.1".parse().unwrap();
    let attempt = node.auth.login(Credentials::Password { user: "ada", password: "wrong" }, elsewhere);
    assert_eq!(attempt.outcome().await.unwrap_err(), LoginError::Wrong);
}

#[tokio::test]
async fn a_flood_of_logins_is_refused_beyond_the_queue() {
    let limits = "[limits.auth]\nmax_verifications = 1\nmax_waiting_verifications = 2\nmax_failures_per_minute = 9999\n";
    let expensive = hash_secret("hunter2").unwrap();
    let node = node(&format!("{limits}[[auth.users]]\nname = 'ada'\npassword_hash = '{expensive}'\n"));
    let attempts: Vec<_> = (0..50)
        .map(|n| {
            let password = n.to_string();
            node.auth.login(Credentials::Password { user: "ada", password: &password }, HOME)
        })
        .collect();
    let refused = attempts.iter().filter(|a| matches!(a, Attempt::Decided(Err(LoginError::Busy)))).count();
    // One is being verified and two wait; while the attempts are made a few more may be finished.
    assert!((1..=48).contains(&refused), "{refused} of 50 were refused");
    assert_eq!(node.metrics.limits_reached(Limit::AuthMaxWaitingVerifications), refused as u64);
    for attempt in attempts {
        assert!(matches!(attempt.outcome().await, Err(LoginError::Wrong | LoginError::Busy)));
    }
    login(&node, "ada", "hunter2").await.expect("afterwards it is as before");
}

#[tokio::test]
async fn a_reload_keeps_whom_it_knows_and_parts_from_the_rest() {
    let eve = format!("[[auth.users]]\nname = 'eve'\npassword_hash = '{}'\n", cheap("apple"));
    let node = node(&(ada("hunter2") + &eve));
    let (first, second) =
        (login(&node, "ada", "hunter2").await.unwrap(), login(&node, "eve", "apple").await.unwrap());
    let before = first.policy_id();
    let new = config(&(ada("hunter2") + "publish = { allow = ['a.{{user}}.>'] }"));
    node.auth.reload(&new, &node.policies).unwrap();
    assert!(!first.is_gone() && second.is_gone());
    assert_ne!(first.policy_id(), before);
    let subject = |text: &'static str| Subject::new(text).unwrap();
    let may = |user: &User, text| node.policies.get(user.policy_id()).permissions.may_publish(subject(text));
    assert!(may(&first, "a.ada.b") && !may(&first, "a.eve.b") && !may(&second, "a.eve.b"));
    assert!(
        node.policies.get(before).permissions.may_publish(subject("x")),
        "what is under way ends as it began"
    );
    assert_eq!(
        login(&node, "eve", "apple").await.unwrap_err(),
        LoginError::Wrong,
        "its verdict is worthless"
    );
    // Another password: whoever knew the old one is somebody else.
    node.auth.reload(&config(&ada("other")), &node.policies).unwrap();
    assert!(first.is_gone());
    assert_eq!(login(&node, "ada", "hunter2").await.unwrap_err(), LoginError::Wrong);
    assert!(!Arc::ptr_eq(&first, &login(&node, "ada", "other").await.unwrap()));
}

#[test]
fn who_shows_nothing_is_nobody_anonymous_or_a_stranger() {
    let nobody = |text: &str| node(text).auth.nobody().map(|who| who.map(|user| user.name().to_owned()));
    assert_eq!(nobody(""), Ok(None));
    assert_eq!(nobody("auth.anonymous = true"), Ok(None));
    let users = ada("x");
    assert_eq!(nobody(&users), Err(LoginError::Missing));
    assert_eq!(nobody(&format!("auth.anonymous = true\n{users}")), Ok(Some("anonymous".to_owned())));
    assert_eq!(nobody("[auth.defaults]\npublish = { allow = [] }"), Ok(Some("anonymous".to_owned())));
    let own =
        node("auth.anonymous = true\n[[auth.users]]\nname = 'anonymous'\npublish = { allow = ['a'] }").auth;
    let policy = own.nobody().unwrap().unwrap().policy();
    assert!(policy.permissions.may_publish(Subject::new("a").unwrap()));
    assert!(!policy.permissions.may_publish(Subject::new("b").unwrap()));
}

#[test]
fn a_browser_s_cookie_is_its_own_and_ends() {
    let node = node(&ada("x"));
    let directory = node.auth.directory.read().clone();
    let user = directory.by_name("ada").unwrap();
    let (one, other) = (node.auth.browser_login(user.clone()), node.auth.browser_login(user));
    assert_ne!(one, other);
    assert_eq!(node.auth.browser(&one).unwrap().name(), "ada");
    assert!(node.auth.browser("").is_none() && node.auth.browser(&one[1..]).is_none());
    node.auth.browser_logout(&one);
    assert!(node.auth.browser(&one).is_none() && node.auth.browser(&other).is_some());
    node.auth.reload(&config(&ada("y")), &node.policies).unwrap();
    assert!(node.auth.browser(&other).is_none(), "another password");
}

#[test]
fn a_pre_shared_key_is_read_from_its_file() {
    let around = tempfile::tempdir().unwrap();
    let file = around.path().join("sensor.psk");
    let mut with_file = Config::default();
    with_file.auth.users.push(crate::config::User { psk_file: Some(file.clone()), ..config_user("sensor") });
    let load = |config: &Config| Auth::new(config, &Policies::default(), Arc::new(Metrics::new()));
    assert!(load(&with_file).unwrap_err().to_string().contains("sensor.psk"));
    for (wrong, expected) in [("00112233", "16 to 64"), ("s3cr3t", "in hex"), ("0", "in hex")] {
        std::fs::write(&file, wrong).unwrap();
        let error = load(&with_file).unwrap_err().to_string();
        assert!(error.contains("sensor") && error.contains(expected) && !error.contains("s3cr3t"), "{error}");
    }
    std::fs::write(&file, format!("{}\n", "0aFF".repeat(8))).unwrap();
    let auth = load(&with_file).unwrap();
    let (user, key) = auth.psk("sensor").unwrap();
    assert_eq!((user.name(), key), ("sensor", Psk::new([0x0a, 0xff].repeat(8)).unwrap()));
    assert!(auth.psk("nobody").is_none());
}

fn config_user(name: &str) -> crate::config::User {
    let mut config = config(&ada("x"));
    let user = config.auth.users.remove(0);
    crate::config::User { name: name.to_owned(), password_hash: None::<Secret>, ..user }
}

#[test]
fn those_who_have_not_proved_who_they_are_are_bounded() {
    let node = node(&format!("limits.auth.max_unproved = 2\n{}", ada("x")));
    let (first, _second) = (node.auth.unproved().unwrap(), node.auth.unproved().unwrap());
    assert!(node.auth.unproved().is_none() && node.auth.unproved().is_none());
    drop(first);
    assert!(node.auth.unproved().is_some(), "whoever was turned away takes no place");
}

#[test]
fn a_user_has_so_many_sessions_and_publishes_so_much() {
    use crate::metrics::DropReason;
    use waymeet_core::permissions::Access;
    let limits = "limits = { max_connections = 1, bytes_per_second = 100 }\npublish = { allow = ['a.>'] }";
    let node = node(&format!("{}{limits}", ada("x")));
    let user = node.auth.directory.read().by_name("ada").unwrap();
    let first = user.connect().unwrap();
    assert!(user.connect().is_none());
    drop(first);
    assert!(user.connect().is_some());
    let mut bound = Bound::new(node.policies.get(user.policy_id()), Access::Some);
    let metrics = &node.metrics;
    let mut objection = |subject, size| bound.objection(Subject::new(subject).unwrap(), size, metrics);
    assert_eq!(objection("b", 1), Some(DropReason::NoPermission));
    assert_eq!(objection("a.b", 1_000_000), None, "a second's worth is there, and something larger is owed");
    assert_eq!(objection("a.b", 1), Some(DropReason::RateLimited));
    assert_eq!(objection("b", 1), Some(DropReason::NoPermission), "which is the better reason");
    assert_eq!(metrics.limits_reached(Limit::UserBytesPerSecond), 1);
    assert_eq!(metrics.limits_reached(Limit::UserMessagesPerSecond), 0);
    assert!(!bound.is_known_to_allow(b"a.b"), "each message is measured");
}

#[test]
fn a_subject_is_known_to_be_allowed_once_the_rules_were_asked() {
    use waymeet_core::permissions::Access;
    let node =
        node(&format!("{}publish = {{ allow = ['a.>'] }}\nallow_responses = {{ count = 1 }}", ada("x")));
    let user = node.auth.directory.read().by_name("ada").unwrap();
    let bound = |access| Bound::new(node.policies.get(user.policy_id()), access);
    let mut some = bound(Access::Some);
    assert!(!some.is_known_to_allow(b"a.b"), "nobody has asked");
    assert_eq!(some.objection(Subject::new("a.b").unwrap(), 1, &node.metrics), None);
    assert!(some.is_known_to_allow(b"a.b"));
    assert!(!some.is_known_to_allow(b"a.c") && !some.is_known_to_allow(b"b"));
    assert!(some.objection(Subject::new("b").unwrap(), 1, &node.metrics).is_some());
    assert!(!some.is_known_to_allow(b"b"), "it was refused");
    assert!(bound(Access::All).is_known_to_allow(b"b") && !bound(Access::None).is_known_to_allow(b"a.b"));
}

#[test]
fn the_oldest_browser_has_to_log_in_again() {
    let node = node(&format!("limits.auth.max_browser_logins = 2\n{}", ada("x")));
    let user = node.auth.directory.read().by_name("ada").unwrap();
    let cookies: Vec<_> = (0..3).map(|_| node.auth.browser_login(user.clone())).collect();
    let known: Vec<_> = cookies.iter().map(|cookie| node.auth.browser(cookie).is_some()).collect();
    assert_eq!(known, [false, true, true]);
    assert_eq!(node.metrics.limits_reached(Limit::AuthMaxBrowserLogins), 1);
}

#[test]
fn a_browser_s_login_ends_by_itself() {
    use std::time::{Duration, Instant};
    let node = node(&format!("limits.auth.browser_login_time = '1h'\n{}", ada("x")));
    let user = node.auth.directory.read().by_name("ada").unwrap();
    let (cookie, now) = (node.auth.browser_login(user), Instant::now());
    let found = |after| node.auth.browsers.lock().user(&cookie, now + Duration::from_secs(after));
    assert!(found(3_599).user().is_some());
    assert!(matches!(found(3_601), Found::TooOld) && found(3_601).user().is_none());
}
