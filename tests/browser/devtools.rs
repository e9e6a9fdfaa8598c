//! Chromium, driven by its DevTools protocol, and a server of static files for it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

/// What Chromium needs to compute without a GPU and to ask nobody anything.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-webgpu",
    // Zeros in workgroup memory take SwiftShader most of its time, and no kernel trusts them.
    "--enable-dawn-features=disable_workgroup_init",
    "--no-first-run",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
    "--window-size=1280,1000",
];

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A static file server on this machine.
pub struct Site {
    address: String,
}

impl Site {
    /// Serves the files of a folder, until the process ends.
    pub fn serve(folder: &Path) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let folder = folder.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let folder = folder.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &folder));
            }
        });
        Site { address }
    }
}

/// Answers the requests of a connection.
fn answer(mut stream: TcpStream, folder: &Path) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    while let Some(Ok(first)) = lines.next() {
        while !lines.next()?.ok()?.is_empty() {}
        let path = first.split(' ').nth(1)?.split('?').next()?;
        let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
        let kind = match name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript",
            Some("css") => "text/css",
            Some("svg") => "image/svg+xml",
            Some("wasm") => "application/wasm",
            _ => "application/octet-stream",
        };
        let found = (!name.contains("..")).then(|| std::fs::read(folder.join(name)).ok()).flatten();
        let (status, body) = found.map_or(("404 Not Found", vec![]), |body| ("200 OK", body));
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-cache\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&body).ok()?;
    }
    Some(())
}

/// A browser with one page.
pub struct Browser {
    child: Child,
    profile: PathBuf,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: String,
    site: String,
    last: u64,
    /// What is wrong on the console, and requests to others.
    faults: Arc<Mutex<Vec<String>>>,
}

/// Returns the program, if there is one.
pub fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).flat_map(|folder| {
        ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name))
    });
    named.or_else(|| places.find(|place| place.is_file()))
}

impl Browser {
    /// Starts a browser with a page of the site. `before` is JavaScript that runs before the page's own.
    pub fn open(site: &Site, before: &str) -> Browser {
        let profile = tempfile::tempdir().unwrap().keep();
        let mut command = Command::new(chromium().expect("Chromium"));
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.display()));
        command.arg("about:blank").stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let clock = Instant::now();
        let place = loop {
            assert!(clock.elapsed() < PATIENCE, "Chromium does not start");
            let port =
                std::fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
            match port.split_once('\n') {
                Some((port, path)) if !path.is_empty() => {
                    break format!("ws://127.0.0.1:{port}{}", path.trim());
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        let (socket, _) = tungstenite::connect(place).unwrap();
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let faults = Arc::default();
        let (session, site) = (String::new(), site.address.clone());
        let mut browser = Browser { child, profile, socket, session, site, last: 0, faults };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attached);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        // The worker is a target of its own.
        let workers = json!({"autoAttach": true, "waitForDebuggerOnStart": false, "flatten": true});
        browser.call("Target.setAutoAttach", workers);
        if !before.is_empty() {
            browser.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": before}));
        }
        browser.load();
        browser
    }

    /// Loads the page, anew if it was there already.
    pub fn load(&mut self) {
        let url = format!("{}/index.html", self.site);
        self.call("Page.navigate", json!({ "url": url }));
        let clock = Instant::now();
        while self.evaluate("document.readyState === 'complete' && location.href !== 'about:blank'")
            != true
        {
            assert!(clock.elapsed() < PATIENCE, "the page does not load");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the value of JavaScript on the page, after its promise if it is one.
    pub fn evaluate(&mut self, script: &str) -> Value {
        self.try_evaluate(script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Does the same, or returns what was thrown.
    pub fn try_evaluate(&mut self, script: &str) -> Result<Value, String> {
        let params = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params);
        match result.get("exceptionDetails") {
            None => Ok(result["result"]["value"].clone()),
            Some(thrown) => {
                let text = thrown["exception"]["description"].as_str();
                Err(text.or(thrown["text"].as_str()).unwrap_or_default().to_owned())
            }
        }
    }

    /// Waits until JavaScript on the page is true.
    pub fn wait_for(&mut self, script: &str) {
        let clock = Instant::now();
        while self.evaluate(&format!("!!({script})")) != true {
            assert!(clock.elapsed() < PATIENCE, "{script} does not become true");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Writes a picture of the page.
    pub fn picture(&mut self, path: &Path, [width, height]: [u32; 2], dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
        let shot = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, base64(shot["data"].as_str().unwrap())).unwrap();
    }

    /// Sends a command of the protocol and returns its result.
    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params, &self.session.clone());
        loop {
            let Message::Text(text) = self.socket.read().expect("Chromium answers") else {
                continue;
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.hear(&message);
        }
    }

    fn send(&mut self, method: &str, params: Value, session: &str) -> u64 {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !session.is_empty() {
            message["sessionId"] = session.into();
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        self.last
    }

    fn hear(&mut self, message: &Value) {
        let params = &message["params"];
        let fault = match message["method"].as_str() {
            Some("Target.attachedToTarget") => {
                let session = params["sessionId"].as_str().unwrap().to_owned();
                for domain in ["Runtime", "Log", "Network"] {
                    self.send(&format!("{domain}.enable"), json!({}), &session);
                }
                return;
            }
            Some("Runtime.consoleAPICalled") => Some(params["args"].to_string()),
            Some("Runtime.exceptionThrown") => Some(params["exceptionDetails"].to_string()),
            Some("Log.entryAdded") => Some(params["entry"].to_string()),
            Some("Network.requestWillBeSent") => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                let own = [&self.site[..], "data:", "blob:", "about:"];
                (!own.iter().any(|own| url.starts_with(own))).then(|| format!("a request to {url}"))
            }
            Some("Network.responseReceived") => {
                let status = params["response"]["status"].as_u64().unwrap_or(0);
                (status >= 400).then(|| format!("{status}: {}", params["response"]["url"]))
            }
            _ => None,
        };
        self.faults.lock().unwrap().extend(fault);
    }

    /// Checks that the console is empty and that nothing was asked of others.
    pub fn end(mut self) {
        self.evaluate("0");
        let faults = std::mem::take(&mut *self.faults.lock().unwrap());
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Returns the bytes of base64.
pub fn base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
