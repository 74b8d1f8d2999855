//! The codec against libcoap's and coap-lite's: 100,000 generated and mutated messages through all three.
//!
//! Where they disagree, `explain_libcoap` and `explain_coap_lite` name the section of the RFC that says who is right;
//! a disagreement without an explanation fails the test. libcoap is run by a small program that is compiled here. Where
//! there is no compiler or no libcoap the test says so, and in CI (`CI=true`) it fails.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coap_lite::Packet;
use waymeet_core::coap::codec::{self, Encoder, FormatError, ParseError};
use waymeet_core::coap::option::CoapOption;
use waymeet_core::coap::{Code, Datagram, Token, Type};

const MESSAGES: usize = 100_000;

/// xorshift64: the same messages in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// A well-formed message with options that exist and options that do not.
fn generate(random: &mut Random) -> Vec<u8> {
    const NUMBERS: [u16; 20] =
        [1, 3, 4, 5, 6, 7, 8, 11, 11, 12, 14, 15, 17, 23, 27, 60, 252, 292, 2_049, 65_020];
    const KINDS: [Type; 4] = [Type::Confirmable, Type::NonConfirmable, Type::Acknowledgement, Type::Reset];
    let mut numbers: Vec<u16> = (0..random.below(6)).map(|_| NUMBERS[random.below(NUMBERS.len())]).collect();
    numbers.sort_unstable();
    let token_length = random.below(9);
    let token = Token::new(&random.bytes(token_length)).expect("at most eight bytes");
    let code = Code::from_byte([0, 1, 2, 3, 4, 0x44, 0x45, 0x5f, 0x80, 0xa3, 0x20, 0xe1][random.below(12)]);
    let mut out = Vec::new();
    let mut encoder =
        Encoder::new(&mut out, KINDS[random.below(4)], code, random.below(65_536) as u16, token);
    for number in numbers {
        // Mostly lengths that the option allows, so that most messages get as far as their payloads.
        let length = match number {
            _ if random.below(16) == 0 => random.below(400),
            3 | 8 | 11 | 15 | 2_049 | 65_020 => [1, 2, 12, 13, 14, 40, 255][random.below(7)],
            5 => 0,
            _ => 1 + random.below(2),
        };
        encoder.option(number, &random.bytes(length));
    }
    let length = [0, 0, 1, 16, 64][random.below(5)];
    encoder.payload(&random.bytes(length));
    out
}

fn mutate(random: &mut Random, message: &mut Vec<u8>) {
    for _ in 0..random.below(3) {
        let at = random.below(message.len().max(1));
        match random.below(6) {
            0 => message.truncate(at),
            1 => message.insert(at, random.below(256) as u8),
            2 => message.push(0xff),
            3 if at < message.len() => drop(message.remove(at)),
            // The first bytes decide the most.
            4 if !message.is_empty() => {
                let at = at % message.len().min(6);
                message[at] = random.below(256) as u8;
            }
            _ if at < message.len() => message[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
}

fn messages() -> Vec<Vec<u8>> {
    let mut random = Random(0x5eed_c0a9);
    let message = |index| {
        if index % 10 == 0 {
            let length = random.below(24);
            return random.bytes(length);
        }
        let mut message = generate(&mut random);
        if index % 3 > 0 {
            mutate(&mut random, &mut message);
        }
        message
    };
    (0..MESSAGES).map(message).collect()
}

/// A message as all three show it.
fn shown<'a>(
    header: (u8, u8, u16),
    token: &[u8],
    options: impl Iterator<Item = (u16, &'a [u8])>,
    payload: &[u8],
) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let options: String = options.map(|(number, value)| format!(" {number}:{}", hex(value))).collect();
    format!("{} {} {} {}{options} |{}", header.0, header.1, header.2, hex(token), hex(payload))
}

fn ours(message: &Datagram<'_>) -> String {
    let kind = match message.kind {
        Type::Confirmable => 0,
        Type::NonConfirmable => 1,
        Type::Acknowledgement => 2,
        Type::Reset => 3,
    };
    shown(
        (kind, message.code.as_byte(), message.message_id),
        message.token.as_bytes(),
        message.options.iter().map(|option| (option.number, option.value)),
        message.payload,
    )
}

fn coap_lite(message: &[u8]) -> Option<String> {
    let packet = Packet::from_bytes(message).ok()?;
    let kind = match packet.header.get_type() {
        coap_lite::MessageType::Confirmable => 0,
        coap_lite::MessageType::NonConfirmable => 1,
        coap_lite::MessageType::Acknowledgement => 2,
        coap_lite::MessageType::Reset => 3,
    };
    let options =
        packet.options().flat_map(|(number, values)| values.iter().map(|value| (*number, &value[..])));
    let header = (kind, u8::from(packet.header.code), packet.header.message_id);
    Some(shown(header, packet.get_token(), options, &packet.payload))
}

/// Why coap-lite may see another message than we do.
fn explain_coap_lite(message: &[u8], theirs: Option<&str>) -> Option<&'static str> {
    match (codec::parse(message), theirs) {
        (Err(ParseError::Ignored), Some(_)) if message.len() >= 4 => {
            Some("RFC 7252, section 3: another version is ignored; coap-lite leaves that to its user")
        }
        (Err(ParseError::Malformed { reason: FormatError::EmptyWithContent, .. }), Some(_)) => {
            Some("section 4.1: an Empty message is four bytes; coap-lite leaves that to its user")
        }
        (Err(ParseError::Malformed { reason: FormatError::Marker, .. }), Some(_)) => {
            Some("section 3: a marker without a payload is a message format error")
        }
        (Err(ParseError::Malformed { reason: FormatError::Option, .. }), Some(_)) => {
            Some("section 3.1: reserved nibbles and numbers above 65,535 are message format errors")
        }
        _ => None,
    }
}

/// Why libcoap may see another message than we do.
fn explain_libcoap(message: &[u8], theirs: Option<&str>) -> Option<&'static str> {
    match (codec::parse(message), theirs) {
        (Ok(message), None) if matches!(message.code.class(), 1 | 6 | 7) => {
            Some("sections 4.2 and 4.3: a reserved class is well-formed, and rejected by our session instead")
        }
        (Ok(message), None) if message.options.iter().any(|option| !has_registered_length(&option)) => Some(
            "section 5.4.3: a length that is not allowed makes an option unrecognised, not the message malformed",
        ),
        (Ok(message), None)
            if message.options.iter().any(|option| option.number == 15 && option.value.is_empty()) =>
        {
            Some("section 5.10, table 4: a Uri-Query may be empty; libcoap 4.3.1 wants a byte in it")
        }
        _ => None,
    }
}

/// Whether an option's length is one that its specification allows, of options that our server does not read too.
fn has_registered_length(option: &CoapOption<'_>) -> bool {
    let len = option.value.len();
    option.has_valid_length()
        && match option.number {
            // Location-Path, OSCORE (RFC 8613), Location-Query.
            8 | 9 | 20 => len <= 255,
            // Hop-Limit (RFC 8768).
            16 => len == 1,
            // Q-Block1 and Q-Block2 (RFC 9177).
            19 | 31 => len <= 3,
            // No-Response (RFC 7967).
            258 => len <= 1,
            _ => true,
        }
}

#[test]
fn coap_lite_agrees_or_is_explained() {
    let mut explained = 0;
    let messages = messages();
    for message in &messages {
        let mine = codec::parse(message).ok().map(|message| ours(&message));
        let theirs = coap_lite(message);
        if mine != theirs {
            let why = explain_coap_lite(message, theirs.as_deref());
            assert!(why.is_some(), "{message:02x?}\n  ours:  {mine:?}\n  coap-lite: {theirs:?}");
            explained += 1;
        }
    }
    println!("coap-lite: {explained} of {} explained by the RFC", messages.len());
    assert!(explained < MESSAGES / 4, "most messages are the same to both");
}

/// Compiles the program around libcoap; why it cannot be, otherwise.
fn libcoap() -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/coap_differential/libcoap.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libcoap-codec");
    let mut why = String::from("no compiler");
    for library in ["coap-3-notls", "coap-3", "coap-3-openssl", "coap-3-gnutls"] {
        let compiled =
            Command::new("cc").arg("-o").arg(&program).arg(&source).arg(format!("-l{library}")).output();
        match compiled {
            Ok(output) if output.status.success() => return Ok(program),
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => return Err(format!("cc: {error}")),
        }
    }
    Err(why)
}

#[test]
fn libcoap_agrees_or_is_explained() {
    let program = match libcoap() {
        Ok(program) => program,
        Err(why) => {
            let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_ci, "libcoap cannot be compared with; install libcoap3-dev and a C compiler: {why}");
            return println!(
                "SKIPPED: the comparison with libcoap, for want of libcoap3-dev or a C compiler"
            );
        }
    };
    let messages = messages();
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was just compiled");
    let mut input = child.stdin.take().expect("it is piped");
    let encoded: Vec<u8> = messages
        .iter()
        .flat_map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat())
        .collect();
    // Both pipes are bounded: what is written and what is read must not wait for each other.
    let writer = std::thread::spawn(move || input.write_all(&encoded));
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (mut explained, mut unexplained) = (0, Vec::new());
    let mut compared = 0;
    for (message, line) in messages.iter().zip(lines) {
        let line = line.expect("it writes ASCII");
        let theirs = (line != "-").then_some(line);
        let mine = codec::parse(message).ok().map(|message| ours(&message));
        compared += 1;
        if mine != theirs {
            match explain_libcoap(message, theirs.as_deref()) {
                Some(_) => explained += 1,
                None => {
                    unexplained.push(format!("{message:02x?}\n  ours:    {mine:?}\n  libcoap: {theirs:?}"))
                }
            }
        }
    }
    writer.join().expect("writing does not panic").expect("it reads everything");
    assert!(child.wait().is_ok_and(|status| status.success()) && compared == MESSAGES, "{compared} compared");
    unexplained.truncate(10);
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    println!("libcoap: {explained} of {MESSAGES} explained by the RFC");
    assert!(explained < MESSAGES / 4, "most messages are the same to both");
}
