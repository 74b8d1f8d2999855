// Begins the console: live figures, and the page.

import { render } from "preact";
import { App } from "./app";
import { start } from "./live";

start();
render(<App />, document.getElementById("app")!);
