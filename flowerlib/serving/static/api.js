// The API of the service, as the page uses it.

const QUERY = new URLSearchParams({ top: 5, activation_map: true, similar: 6 });
const MAX_REQUESTS = 4; // at once; the server batches what arrives together

const waiting = [];
let underWay = 0;

/** An error in words; `isTemporary` where the same request may succeed later. */
class ApiError extends Error {
  constructor(message, isTemporary) {
    super(message);
    this.isTemporary = isTemporary;
  }
}

/** Return the description of the model. */
export async function describeModel() {
  return json(await request("model"));
}

/** Return the prediction for a file, when its turn has come. */
export async function predict(file) {
  if (underWay >= MAX_REQUESTS) await new Promise((resolve) => waiting.push(resolve));
  underWay += 1;
  try {
    const form = new FormData();
    form.append("files", file, file.name);
    const [prediction] = await json(await request(`predict?${QUERY}`, { method: "POST", body: form }));
    return prediction;
  } finally {
    underWay -= 1;
    waiting.shift()?.();
  }
}

async function request(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new ApiError("The server cannot be reached, or closed the connection.", true);
  }
}

/** Return the JSON of an answer; raise an error with the server's words where it is not a success. */
async function json(response) {
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const detail = typeof answer.detail === "string" ? answer.detail : `The server answered ${response.status}.`;
  throw new ApiError(detail, response.status === 408 || response.status >= 500);
}
