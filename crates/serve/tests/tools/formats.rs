//! What each format's answers mean, and which model writes which format.
use crate::answers::{Meaning, TOOLS, meaning, read, reader};
use planish_serve::reply::Reply;
use planish_serve::tools::{Delta, FORMATS, Format};
use std::time::Instant;

fn format(name: &str) -> &'static Format {
    Format::named(name).unwrap()
}

#[track_caller]
fn check(name: &str, answer: &str, content: &str, calls: &[(&str, &str)]) {
    let found = meaning(format(name), answer);
    let calls: Vec<(String, String)> = calls.iter().map(|&(n, a)| (n.to_owned(), a.to_owned())).collect();
    assert_eq!((found.content.as_str(), &found.calls), (content, &calls), "{answer}");
}

#[test]
fn calls_of_each_format() {
    let one = [("get_weather", r#"{"city": "Paris"}"#)];
    let two = [one[0], ("a", "{}")];
    for (name, answer, calls) in [
        (
            "hermes",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>",
            &one[..],
        ),
        (
            "hermes",
            "<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}, {\"name\": \"a\", \"arguments\": {}}]</tool_call>",
            &two,
        ),
        ("llama3", "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}", &one),
        (
            "llama3",
            "<|python_tag|>{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}; {\"name\": \"a\", \"parameters\": {}}",
            &two,
        ),
        (
            "llama3",
            "\n\n{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}\n{\"name\": \"a\", \"parameters\": {}}\n",
            &two,
        ),
        (
            "mistral",
            "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}, \"id\": \"x\"}, {\"name\": \"a\", \"arguments\": {}}]",
            &two,
        ),
        ("mistral", "[TOOL_CALLS] [{\"arguments\": {\"city\": \"Paris\"}, \"name\": \"get_weather\"}]", &one),
        ("mistral", "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Paris\"}[TOOL_CALLS]a[CALL_ID]123456789[ARGS]{}", &two),
        (
            "internlm2",
            "<|action_start|><|plugin|>\n{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}<|action_end|>",
            &one,
        ),
        (
            "internlm2",
            "<|action_start|> <|plugin|>{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}<|action_end|>\n<|action_start|><|plugin|>{\"name\": \"a\"}<|action_end|>",
            &two,
        ),
    ] {
        check(name, answer, "", calls);
    }
}

#[test]
fn text_around_calls_stays() {
    let call = "<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>";
    check("hermes", &format!("Let me see.\n\n{call}\n\nDone.\n"), "Let me see.\n\nDone.\n", &[("a", "{}")]);
    check("hermes", &format!("{call} {call}\n"), "", &[("a", "{}"), ("a", "{}")]);
    check("llama3", "I see:\n{\"name\": \"a\", \"parameters\": {}} so", "I see: so", &[("a", "{}")]);
    check(
        "llama3",
        "In a line {\"name\": \"a\", \"parameters\": {}}",
        "In a line {\"name\": \"a\", \"parameters\": {}}",
        &[],
    );
}

#[test]
fn small_slips_do_not_lose_a_call() {
    for (answer, arguments) in [
        ("{\"name\": \"a\", \"arguments\": {\"x\": 1}</tool_call>", "{\"x\": 1}"),
        ("{\"name\": \"a\", \"arguments\": {\"x\": 1}}}</tool_call>", "{\"x\": 1}"),
        ("{\"name\": \"a\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>", "{\"x\": 1}"),
        ("{\"name\": \"a\", \"arguments\": null}</tool_call>", "{}"),
        ("{\"name\": \"a\"}</tool_call>", "{}"),
        (
            "{\"name\": \"a\", \"arguments\": {\"x\": True, \"y\": \"1\n2\"}}</tool_call>",
            "{\"x\": true, \"y\": \"1\\n2\"}",
        ),
        ("{\"name\": \"a\", \"arguments\": {\"x\": 1}}", "{\"x\": 1}"),
        ("{\"name\": \"a\", \"arguments\": {\"x\": 1}}</tool_", "{\"x\": 1}"),
    ] {
        check("hermes", &format!("<tool_call>{answer}"), "", &[("a", arguments)]);
    }
}

#[test]
fn what_is_no_call_is_content_unchanged() {
    for (name, answer) in [
        ("hermes", "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>"),
        ("hermes", "<tool_call>\n not JSON </tool_call> "),
        ("hermes", "<tool_call>{\"name\": \"a\", \"arg"),
        ("hermes", "<tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call>"),
        ("hermes", "{\"name\": \"a\", \"arguments\": {}}"),
        ("hermes", "<tool_"),
        ("llama3", "{\"name\": \"a\", \"city\": \"Paris\"}"),
        ("llama3", "{\"name\": \"a\"}"),
        ("llama3", " {\"answer\": {\"name\": \"a\", \"parameters\": {}}}"),
        ("llama3", "<|python_tag|>print(\"{}\")"),
        ("mistral", "[TOOL_CALLS] maybe later"),
        ("mistral", "[TOOL_CALLS]unknown[ARGS]{\"x\": 1}"),
        ("mistral", "[TOOL_CALLS][[{\"name\": \"a\", \"arguments\": {}}]]"),
        ("mistral", "[{\"name\": \"a\", \"arguments\": {}}]"),
        ("internlm2", "<|action_start|><|interpreter|>\nprint(1)<|action_end|>"),
    ] {
        check(name, answer, answer, &[]);
    }
}

#[test]
fn a_call_that_breaks_is_content_if_the_whole_is_wanted() {
    for broken in [
        "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": nope}}</tool_call>",
        "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 'y'}}</tool_call>",
        "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": \"cut o",
    ] {
        let whole = read(reader(format("hermes")).whole(), false, [broken.as_bytes()]);
        assert_eq!(whole, Meaning { content: broken.to_owned(), ..Meaning::default() });
        let next = format!("<tool_call>{{\"name\": \"a\", \"arguments\": {{}}}}</tool_call>{broken}");
        let whole = read(reader(format("hermes")).whole(), false, [next.as_bytes()]);
        assert_eq!((whole.content.as_str(), whole.calls.len()), (broken, 1));
    }
    // Streamed, what was certain has been sent, and the rest follows as content.
    check(
        "hermes",
        "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 'y'}}</tool_call>",
        "'y'}}",
        &[("a", "{\"x\": ")],
    );
    check("hermes", "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": [12", "", &[("a", "{\"x\": [12")]);
}

#[test]
fn arguments_are_streamed_as_they_come() {
    let mut reply = Reply::new(None, Some(reader(format("hermes"))));
    assert_eq!(reply.push(b"<tool_call>{\"name\": \"a\", \"argu"), []);
    let Delta::Call { index: 0, id, name } = reply.push(b"ments\": {").remove(0) else { panic!() };
    assert!(id.starts_with("call_") && name == "a");
    let arguments = |text: &str| vec![Delta::Arguments { index: 0, text: text.to_owned() }];
    assert_eq!(reply.push(b"\"city\": \"Pa"), arguments("\"city\": \"Pa"));
    assert_eq!(reply.push(b"ris\", \"n\": 12"), arguments("ris\", \"n\": "));
    assert_eq!(reply.push(b"3"), []);
    assert_eq!(reply.push(b"}"), arguments("123}"));
    assert_eq!(reply.push(b"}"), [Delta::CallEnd { index: 0 }]);
    assert_eq!((reply.push(b"\n</tool_call>"), reply.finish()), (vec![], vec![]));
    assert_eq!(reply.calls(), 1);
}

#[test]
fn one_call_alone_ends_the_answer() {
    let call = "<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>";
    let mut reply = Reply::new(None, Some(reader(format("hermes")).single()));
    let deltas = reply.push(format!("x{call}{call} y").as_bytes());
    assert!(reply.is_over());
    let found = Meaning::of(deltas.into_iter().chain(reply.finish()));
    assert_eq!((found.content.as_str(), found.calls.len()), ("x", 1));
}

#[test]
fn ids_differ_and_fit_the_format() {
    let answer = "[TOOL_CALLS]a[ARGS]{}[TOOL_CALLS]a[ARGS]{}";
    let mut reply = Reply::new(None, Some(reader(format("mistral"))));
    let ids: Vec<String> = reply
        .push(answer.as_bytes())
        .into_iter()
        .filter_map(|d| match d {
            Delta::Call { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    assert!(ids.iter().all(|id| id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric())), "{ids:?}");
}

#[test]
fn a_model_s_format_is_found() {
    for (template, model_type, name) in [
        ("… <|python_tag|> …", "llama", "llama3"),
        ("{{ 'Environment: ipython' }}", "llama", "llama3"),
        ("'<tool_call>\\n{\"name\": '", "qwen2", "hermes"),
        ("\"[TOOL_CALLS] [\"", "mistral", "mistral"),
        ("{{ message.content }}", "mistral", "mistral"),
        ("{{ message.content }}", "internlm2", "internlm2"),
        ("{{ message.content }}", "llama", "hermes"),
    ] {
        assert_eq!(Format::of_model(template, model_type).name, name, "{template}");
    }
    let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
    assert_eq!(names, ["hermes", "mistral", "internlm2", "llama3"]);
    assert!(names.iter().all(|name| Format::named(name).is_some()) && Format::named("none").is_none());
    let markers: Vec<&str> = format("internlm2").markers().collect();
    assert!(["<|action_start|>", "<|plugin|>", "<|action_end|>"].iter().all(|m| markers.contains(m)), "{markers:?}");
}

#[test]
fn hostile_answers_cost_their_length() {
    let name = TOOLS[0];
    for (format, part, before) in [
        ("hermes", "<tool_call>", ""),
        ("hermes", "<tool_call>{", ""),
        ("hermes", "<tool_call>{\"name\":\"", ""),
        ("hermes", " ", "<tool_call>"),
        ("hermes", "{\"x\":[", "<tool_call>{\"x\":"),
        ("hermes", "x", "<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"x\":\""),
        ("hermes", "1", "<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"x\":"),
        ("hermes", " ", "<tool_call>{\"name\":\"get_weather\",\"arguments\":"),
        ("llama3", "\n{", ""),
        ("llama3", ";}", "{\"name\":\"a\",\"parameters\":{}}"),
        ("llama3", "{\"name\":\"a\",\"parameters\":{}};", ""),
        ("mistral", "[TOOL_CALLS][", ""),
        ("mistral", "[TOOL_CALLS]a[", ""),
        ("mistral", "{\"name\":\"a\",\"arguments\":{}},", "[TOOL_CALLS]["),
        ("internlm2", "<|action_start|> <|plug", ""),
        ("internlm2", "\n", ""),
    ] {
        let answer = format!("{before}{}", part.repeat((1 << 20) / part.len()));
        let start = Instant::now();
        for pieces in [answer.len(), 7] {
            read(reader(Format::named(format).unwrap()), false, answer.as_bytes().chunks(pieces));
        }
        // About 30 ms; what grows with the square would take minutes.
        assert!(start.elapsed().as_secs() < 60, "{name} {format} {part:?}: {:?}", start.elapsed());
    }
}
