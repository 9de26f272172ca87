//! Panics inside a simulation: collected instead of printed.
//!
//! A member may catch a panic of a library on damaged input and turn it into an error, hundreds of times in a run. What matters
//! of it goes into the report; the terminal stays readable.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static COLLECTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// From here on panics of this thread are collected.
pub fn collect_here() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let collected = COLLECTED.with_borrow_mut(|collected| {
                collected.as_mut().map(|collected| {
                    let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
                    collected.push(format!("{}{place}", text(panic.payload())));
                })
            });
            if collected.is_none() {
                print(panic);
            }
        }));
    });
    COLLECTED.set(Some(Vec::new()));
}

/// The panics of this thread so far.
pub fn collected() -> Vec<String> {
    COLLECTED.with_borrow(|collected| collected.clone().unwrap_or_default())
}

/// What a panic said.
pub fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
}
